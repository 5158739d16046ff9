"""Several answers to each row, from any engine that samples: the row is asked for one after the other.

Each draws from a seed of its own, so that each can be had again alone, and the prompt is evaluated once where the
engine keeps it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from airflow_mullama.engines.base import (
    Engine,
    EngineSettings,
    Generation,
    NoAnswer,
    Outcome,
    Request,
    without_text,
)
from airflow_mullama.rows import ErrorType, RowError


class SeveralAnswers:
    """An engine whose every generation has further ones beside it.

    A row succeeds if all its answers do; else its error is that of the first that failed, and of the others nothing is
    kept but what they cost.

    Args:
        engine: asked for each answer.
        settings: of the job, with ``n``.
    """

    def __init__(self, engine: Engine, settings: EngineSettings) -> None:
        self._engine = engine
        self._count = int(settings.settings["n"])
        self._row_timeout = settings.row_timeout
        self.info = engine.info
        self.rows_per_call = engine.rows_per_call

    def prepare(self, requests: Sequence[Request]) -> list[Request | RowError]:
        """See :class:`airflow_mullama.engines.base.Engine`."""
        return self._engine.prepare(requests)

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """See :class:`airflow_mullama.engines.base.Engine`."""
        return self._engine.count_tokens(requests)

    def shown_prompt(self, request: Request) -> str:
        """The prompt as the engine shows it, or the request where it does not."""
        show = getattr(self._engine, "shown_prompt", None)
        return str(show(request)) if show else request.text

    def run(self, requests: Sequence[Request]) -> list[Outcome]:
        """One outcome per request, in order."""
        timeout = self._row_timeout
        deadline = None if timeout is None else time.monotonic() + timeout * len(requests)
        found: list[list[Generation]] = [[] for _ in requests]
        failed: dict[int, Outcome] = {}
        for answer in range(self._count):
            places = [place for place in range(len(requests)) if place not in failed]
            if not places:
                break
            asked = [replace(requests[place], answer=answer, deadline=deadline) for place in places]
            for place, outcome in zip(places, self._engine.run(asked), strict=True):
                if isinstance(outcome, Generation):
                    found[place].append(outcome)
                else:
                    failed[place] = self._named(outcome, answer)
            if deadline is not None and time.monotonic() > deadline and answer + 1 < self._count:
                late = RowError(
                    ErrorType.TIMEOUT,
                    f"{answer + 1} of {self._count} answers took longer than row_timeout={timeout:g} s",
                )
                failed |= {place: late for place in places if place not in failed}
        return [
            _paid(failed[place], answers) if place in failed else together(answers)
            for place, answers in enumerate(found)
        ]

    def close(self) -> None:
        """See :class:`airflow_mullama.engines.base.Engine`."""
        self._engine.close()

    def _named(self, outcome: Outcome, answer: int) -> Outcome:
        if answer == 0:
            return outcome
        if isinstance(outcome, NoAnswer):
            return replace(outcome, error=self._counted(outcome.error, answer))
        return self._counted(outcome, answer) if isinstance(outcome, RowError) else outcome

    def _counted(self, error: RowError, answer: int) -> RowError:
        return replace(error, message=f"answer {answer + 1} of {self._count}: {error.message}")


def together(answers: Sequence[Generation]) -> Generation:
    """The first answer and its thought, with the others beside it and the tokens of all."""
    first, *others = answers
    return replace(
        first,
        completion_tokens=_sum([answer.completion_tokens for answer in answers]),
        reasoning_tokens=_sum([answer.reasoning_tokens for answer in answers]),
        others=tuple(others),
    )


def _paid(outcome: Outcome, answers: Sequence[Generation]) -> Outcome:
    """An error with the tokens of the answers that are lost with it."""
    if not answers or not isinstance(outcome, (RowError, NoAnswer)):
        return outcome
    if isinstance(outcome, RowError):
        return without_text(together(answers), outcome)
    return NoAnswer(replace(together([outcome.generation, *answers]), others=()), outcome.error)


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
