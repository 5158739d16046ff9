"""What the engine ``llamacpp`` asks for one row's answer, and what it makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Union

from airflow_mullama.engines.base import EngineSettings, Generation, Outcome, Request
from airflow_mullama.engines.llamacpp.completions import IN_DETAIL, Completions, Written
from airflow_mullama.engines.llamacpp.label_scores import TOP_TOKENS, LabelScores
from airflow_mullama.engines.llamacpp.picture_prompts import PicturePrompt, prompt_of
from airflow_mullama.engines.llamacpp.thoughts import Thoughts
from airflow_mullama.engines.log_probabilities import LogProbabilities
from airflow_mullama.engines.reasoning import split_reasoning, without_answer
from airflow_mullama.engines.second_try import temperature_to_use
from airflow_mullama.rows import RowError

Prompt = Union[Sequence[int], PicturePrompt]  # noqa: UP007 - a runtime value
"""Token ids, or a text with pictures."""


class Generator:
    """Answers rows whose prompts are tokenized.

    A model that thinks is asked once where nothing but the answer's end matters. Where the answer is held to a schema,
    ends at a stop text or is rated by itself, or the thought has a limit, it is asked twice: for the thought, and
    behind it for the answer; llama.cpp has all of it but the last token in its cache by then.

    Args:
        completions: asks the server.
        settings: of the job.
        constraint: fields of a request that hold the answer to a schema; none without one.
        labels: of a classification.
        thoughts: of a model that may think; ``None`` for others.
    """

    def __init__(
        self,
        completions: Completions,
        settings: EngineSettings,
        constraint: Mapping[str, Any],
        labels: LabelScores | None,
        thoughts: Thoughts | None,
    ) -> None:
        self._completions = completions
        self._sampling = settings.sampling
        self._labels = labels
        self._logprobs = bool(settings.settings.get("logprobs"))
        self._max_tokens = int(settings.settings["max_tokens"])
        self._constraint = dict(constraint)
        self._thoughts = thoughts

    def generate(self, request: Request) -> Outcome:
        """One row's answer."""
        deadline = self._completions.deadline() if request.deadline is None else request.deadline
        prompt = prompt_of(request) if request.pictures else request.tokens or []
        if isinstance(prompt, RowError):
            return prompt
        thoughts = self._thoughts
        if thoughts is None or not (self._constraint or self._sampling.stop or self._logprobs or thoughts.max_tokens):
            return self._ask_once(request, prompt, deadline)
        if not thoughts.may_think:
            return self._ask_once(request, prompt, deadline)
        return self._ask_twice(request, prompt, thoughts, deadline)

    def _ask_once(self, request: Request, prompt: Prompt, deadline: float | None) -> Outcome:
        body = {**self._sampling_fields(request), **self._answer_fields()}
        body |= {"prompt": _sent(prompt), "max_tokens": self._max_tokens}
        if self._thoughts is not None:
            body |= {**IN_DETAIL, **self._thoughts.fields}
        written = self._completions.ask(body, deadline)
        if isinstance(written, RowError):
            return written
        generation = self._answered(written, prompt, deadline)
        if self._thoughts is None:
            return generation
        thought = split_reasoning(written.text, self._thoughts.tags, inside=self._thoughts.begins_inside)
        generation = replace(
            generation,
            response=thought.answer or "",
            reasoning=thought.reasoning,
            reasoning_tokens=self._thoughts.count(written, thought.length),
        )
        if thought.answer is None:
            return without_answer(generation, cut=written.cut, remedy=self._thoughts.remedy(written))
        return generation

    def _ask_twice(self, request: Request, prompt: Prompt, thoughts: Thoughts, deadline: float | None) -> Outcome:
        most = thoughts.max_tokens or self._max_tokens
        body = {**self._sampling_fields(request), **IN_DETAIL, **thoughts.fields}
        body |= {"prompt": _sent(prompt), "max_tokens": most, "stop": [thoughts.tags.closes]}
        thought = self._completions.ask(body, deadline, thoughts.unwanted)
        if isinstance(thought, RowError):
            return thought
        if thoughts.is_answer(thought):  # the model did not think
            answer = self._ask_behind(request, prompt, self._max_tokens, deadline)
            return answer if isinstance(answer, RowError) else self._answered(answer, prompt, deadline)
        so_far = Generation(
            response="",
            finish_reason="length",
            prompt_tokens=thought.prompt_tokens,
            completion_tokens=thought.completion_tokens,
            cached_tokens=thought.cached_tokens,
            reasoning=thoughts.text_of(thought),
            reasoning_tokens=thought.completion_tokens,
        )
        closed = bool(thought.stop_text)
        room = self._max_tokens if thoughts.max_tokens else self._max_tokens - thought.completion_tokens
        if not closed and not (thought.cut and thoughts.max_tokens and thought.completion_tokens >= most):
            return without_answer(so_far, cut=thought.cut, remedy=thoughts.remedy(thought))
        if room <= 0:
            return without_answer(so_far, cut=True, remedy=thoughts.remedy(thought))
        if isinstance(prompt, PicturePrompt):
            prompt = prompt.followed_by(thought.text + thought.stop_text + thoughts.text_between(closed=closed))
        else:
            prompt = [*prompt, *thoughts.tokens_of(thought), *thoughts.tokens_between(closed=closed)]
        answer = self._ask_behind(request, prompt, room, deadline)
        if isinstance(answer, RowError):
            return answer
        answered = self._answered(answer, prompt, deadline)
        behind = thoughts.behind(answer.text, so_far.reasoning)
        generation = replace(
            so_far,
            response=behind.answer or "",
            finish_reason=answered.finish_reason,
            completion_tokens=thought.completion_tokens + answer.completion_tokens,
            confidence=answered.confidence,
            log_probabilities=answered.log_probabilities,
            reasoning=behind.reasoning,
        )
        if behind.answer is None:
            return without_answer(generation, cut=answer.cut, remedy=thoughts.remedy(answer))
        return generation

    def _ask_behind(
        self, request: Request, prompt: Prompt, max_tokens: int, deadline: float | None
    ) -> Written | RowError:
        body = {**self._sampling_fields(request), **self._answer_fields()}
        return self._completions.ask({**body, "prompt": _sent(prompt), "max_tokens": max_tokens}, deadline)

    def _sampling_fields(self, request: Request) -> dict[str, Any]:
        sampling = self._sampling
        temperature = temperature_to_use(request, sampling.temperature)
        return {
            "temperature": temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repeat_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "cache_prompt": True,
            **({"seed": sampling.row_seed(request.text, request.attempt, request.answer)} if temperature > 0 else {}),
        }

    def _answer_fields(self) -> dict[str, Any]:
        """What belongs to the answer alone."""
        probabilities = {"logprobs": TOP_TOKENS} if self._labels else {"logprobs": 1} if self._logprobs else {}
        return {"stop": list(self._sampling.stop), **probabilities, **self._constraint}

    def _answered(self, written: Written, prompt: Prompt, deadline: float | None) -> Generation:
        return Generation(
            response=written.text,
            finish_reason="length" if written.cut else "stop",
            prompt_tokens=written.prompt_tokens,
            completion_tokens=written.completion_tokens,
            cached_tokens=written.cached_tokens,
            confidence=self._confidence(written, prompt, deadline),
            log_probabilities=LogProbabilities.of(written.probabilities) if self._logprobs else None,
        )

    def _confidence(self, written: Written, prompt: Prompt, deadline: float | None) -> float | None:
        def ask(question: dict[str, Any]) -> Sequence[Mapping[str, Any]] | None:
            if isinstance(prompt, PicturePrompt):
                return None  # it is a text, and a question goes on behind tokens
            answer = self._completions.ask(question, deadline)
            return None if isinstance(answer, RowError) else answer.probabilities

        if self._labels is None:
            return None
        tokens = () if isinstance(prompt, PicturePrompt) else prompt
        return self._labels.confidence(written.text, written.probabilities, tokens, ask)


def _sent(prompt: Prompt) -> Any:
    return prompt.to_json() if isinstance(prompt, PicturePrompt) else list(prompt)
