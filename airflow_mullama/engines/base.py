"""The seam between the worker and whatever computes: requests in, outcomes out, never an exception for a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, Union

import numpy as np
import numpy.typing as npt

from airflow_mullama.rows import RowError
from airflow_mullama.sampling import Sampling

# A further worker is started for so many rows that wait: a few rows are no reason to load a model twice.
ROWS_PER_WORKER = 16


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is started with.

    Args:
        task: what it will be asked for.
        model: path of the model file, or a name that only the engine understands.
        options: the engine's own settings, already validated.
        settings: the job's settings (:meth:`airflow_mullama.jobs.Job.engine_settings`).
        tokenizer: path of a ``tokenizer.json`` that belongs to the model, if there is one.
        require_gpu: refuse to start where layers are to go to a GPU and none is seen.
        row_timeout: seconds one row may take.
        scratch: a folder that only this user may enter and that is gone when the worker is.
        rows: of the largest partition, where it is known: more are never in work at once.
        workers: how many workers of the task share the machine.
    """

    task: Literal["generate", "embed"]
    model: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    tokenizer: str | None = None
    require_gpu: bool = False
    row_timeout: float | None = None
    scratch: str | None = None
    rows: int | None = None
    workers: int = 1

    def to_json(self) -> dict[str, Any]:
        """As the worker receives it."""
        return asdict(self)

    @property
    def sampling(self) -> Sampling:
        """The sampling parameters of a generation."""
        return Sampling.from_mapping(self.settings["sampling"])


@dataclass
class Request:
    """One row as the engine sees it.

    Args:
        row: position in the partition, from 0.
        attempt: 1 for the first try.
        text: the rendered prompt or text.
        tokens: token ids, where the engine prepared them.
        problem: what was wrong with the last answer, where it broke the output schema.
        truncated: whether ``tokens`` are those of a text that was cut at the model's limit.
    """

    row: int
    attempt: int
    text: str
    tokens: list[int] | None = None
    problem: str | None = None
    truncated: bool = False


@dataclass(frozen=True)
class Generation:
    """A generated answer.

    Args:
        response: the text.
        finish_reason: ``stop`` or ``length``.
        prompt_tokens, completion_tokens: the engine's counts; ``None`` where it gives none.
        confidence: 0 to 1, where it was asked for and the engine can say.
        cached_tokens: prompt tokens that the engine had evaluated before, for a row with the same beginning.
    """

    response: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int | None
    completion_tokens: int | None
    confidence: float | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True)
class Embedding:
    """A raw vector as the model gave it, ``float32[n_embd]``; the worker normalises, cuts and checks it.

    Args:
        vector: the numbers.
        prompt_tokens: the engine's count.
        truncated: whether it is the vector of the text's beginning only.
    """

    vector: npt.NDArray[np.float32]
    prompt_tokens: int | None
    truncated: bool = False


@dataclass(frozen=True)
class InvalidAnswer:
    """An answer that breaks the output schema, and how. The worker makes it; engines return the answer."""

    answer: Generation
    error: RowError


Outcome = Union[Generation, Embedding, RowError, InvalidAnswer]  # noqa: UP007 - a runtime value


@dataclass(frozen=True)
class EngineInfo:
    """What a started engine says of itself; it goes to the log and to ``doctor``.

    Args:
        engine: the engine's name.
        version: of the engine's package.
        n_parallel: rows it works on at once.
        calls: threads that call :meth:`Engine.run` at once.
        window: rows to keep in flight, so that a free call always finds rows that are prepared.
        n_ctx: tokens one row may use, prompt and answer together.
        dimensions: length of its vectors, for embedding.
        chat: whether prompts go through a chat template.
        devices: what it computes on, for people.
        constrained: whether decoding is held to the output schema; ``None`` without one.
        notes: warnings worth a log line each.
        tokens_per_call: tokens that the rows of one call may have together; ``None``: only their number counts.
        settings: what it was started with and why, in one line, for people.
    """

    engine: str
    version: str
    n_parallel: int
    calls: int
    window: int
    n_ctx: int | None = None
    dimensions: int | None = None
    chat: bool = False
    devices: tuple[str, ...] = ()
    constrained: bool | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)
    tokens_per_call: int | None = None
    settings: str = ""


class Engine(Protocol):
    """A loaded engine inside the worker process."""

    info: EngineInfo
    rows_per_call: int
    """How many rows one :meth:`run` takes at most; 1 where rows are independent requests."""

    def prepare(self, requests: Sequence[Request]) -> list[Request | RowError]:
        """Tokenise and check a batch, in order. Called by one thread, ahead of :meth:`run`."""
        ...

    def run(self, requests: Sequence[Request]) -> list[Outcome]:
        """Compute one outcome per request, in order. Called from ``info.calls`` threads at once."""
        ...
