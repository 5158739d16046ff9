"""Asking llama.cpp's server in this process for a text, and reading what it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_mullama.rows import ErrorType, RowError

# Makes the server say which tokens it wrote, and which stop text ended it.
IN_DETAIL: Mapping[str, Any] = {"return_tokens": True, "verbose": True}
# Under this name the details stand in an answer.
DETAILS = "__verbose"

Unwanted = Callable[[str], bool]
"""Whether a text that begins so is not wanted, so that it need not be written to its end."""


@dataclass(frozen=True)
class Written:
    """What the model wrote.

    Args:
        text: without the stop text that ended it.
        cut: whether it ended because it may be no longer.
        prompt_tokens, completion_tokens: llama.cpp's counts.
        cached_tokens: prompt tokens that it had evaluated before.
        probabilities: of the tokens, in order, where they were asked for.
        tokens: ids, those of a stop text included; ``None`` where not all are known.
        stop_text: the one that ended it, if it was asked in detail.
        unwanted: whether it was ended here because nobody wants a text that begins so.
    """

    text: str
    cut: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    probabilities: Sequence[Mapping[str, Any]] = ()
    tokens: list[int] | None = None
    stop_text: str = ""
    unwanted: bool = False


class Completions:
    """Asks the server.

    Args:
        server: of xllamacpp.
        row_timeout: seconds one row may take.
    """

    def __init__(self, server: Any, row_timeout: float | None) -> None:
        self._server = server
        self._row_timeout = row_timeout

    def close(self) -> None:
        """Close what it asks over; there is nothing in this process."""

    def deadline(self) -> float | None:
        """Until when a row that is begun now may take, by the monotonic clock."""
        return None if self._row_timeout is None else time.monotonic() + self._row_timeout

    def ask(
        self, body: Mapping[str, Any], deadline: float | None, unwanted: Unwanted | None = None
    ) -> Written | RowError:
        """What the model writes.

        Args:
            body: of a completion.
            deadline: see :meth:`deadline`.
            unwanted: asked with every token.
        """
        if deadline is None and unwanted is None:
            answer = self._server.handle_completions(dict(body))
            if "error" in answer:
                return row_error(answer)
            choice = answer["choices"][0]
            probabilities = (choice.get("logprobs") or {}).get("content") or ()
            return _written(choice["text"], answer, probabilities, answer.get(DETAILS, {}).get("tokens"))
        return self._ask_and_watch(body, deadline, unwanted)

    def _ask_and_watch(
        self, body: Mapping[str, Any], deadline: float | None, unwanted: Unwanted | None
    ) -> Written | RowError:
        """Stream the answer, because only between its pieces can it be cancelled."""
        texts: list[str] = []
        probabilities: list[Mapping[str, Any]] = []
        tokens: list[int] = []
        last: dict[str, Any] = {}
        overdue = refused = False

        def take(piece: dict[str, Any]) -> bool:
            nonlocal overdue, refused, last
            last = piece
            if "error" in piece:
                return True
            for choice in piece.get("choices", ()):
                texts.append(choice.get("text") or "")
                probabilities.extend((choice.get("logprobs") or {}).get("content") or ())
            tokens.extend(piece.get(DETAILS, {}).get("tokens") or ())
            ended = piece["choices"][0].get("finish_reason")
            overdue = deadline is not None and time.monotonic() > deadline and not ended
            refused = unwanted is not None and not ended and unwanted("".join(texts))
            return overdue or refused

        returned = self._server.handle_completions({**body, "stream": True}, take)
        for answer in (returned or {}, last):
            if "error" in answer:
                return row_error(answer)
        text = "".join(texts)
        if overdue:
            return RowError(ErrorType.TIMEOUT, f"the answer took longer than row_timeout={self._row_timeout:g} s")
        if refused:
            return Written(text, cut=False, prompt_tokens=0, completion_tokens=0, unwanted=True)
        # A piece that ends inside of a character is not sent, and its tokens are not.
        complete = len(tokens) == last["usage"]["completion_tokens"]
        return _written(text, last, probabilities, tokens if complete else None)


def _written(
    text: str, answer: Mapping[str, Any], probabilities: Sequence[Mapping[str, Any]], tokens: list[int] | None
) -> Written:
    usage = answer["usage"]
    return Written(
        text=text,
        cut=answer["choices"][0]["finish_reason"] == "length",
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        cached_tokens=(answer.get("timings") or {}).get("cache_n"),
        probabilities=probabilities,
        tokens=tokens,
        stop_text=answer.get(DETAILS, {}).get("stopping_word") or "",
    )


def row_error(answer: Mapping[str, Any]) -> RowError:
    """The typed error of an answer that is an error dictionary."""
    error = answer["error"]
    if isinstance(error, Mapping) and error.get("type") == "exceed_context_size_error":
        return RowError(ErrorType.PROMPT_TOO_LONG, str(error.get("message")))
    message = error.get("message", error) if isinstance(error, Mapping) else error
    return RowError(ErrorType.ENGINE_ERROR, f"llama.cpp: {message}")
