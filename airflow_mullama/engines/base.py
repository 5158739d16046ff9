"""The seam between the worker and whatever computes: requests in, outcomes out, never an exception for a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal, Protocol, Union

import numpy as np
import numpy.typing as npt

from airflow_mullama.engines.log_probabilities import LogProbabilities
from airflow_mullama.engines.pictures import Picture
from airflow_mullama.engines.sampling import Sampling
from airflow_mullama.rows import RowError

# Another worker is started for every so many waiting rows: a few rows are no reason to load a model twice.
ROWS_PER_WORKER = 16
# Seconds until an engine must be ready: enough for 100 GB of weights from a disk that reads 60 MB a second.
DEFAULT_LOAD_TIMEOUT = 1800.0


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is started with.

    Args:
        task: what it will be asked for.
        model: path of the model file, or a name that only the engine understands.
        options: the engine's own settings, already validated.
        settings: the job's settings (:meth:`airflow_mullama.jobs.job.Job.engine_settings`).
        tokenizer: path of a ``tokenizer.json`` that belongs to the model, if there is one.
        adapters: LoRA adapters that change the model, each its path and its scale.
        projector: path of what brings pictures to the model, if there is one.
        require_gpu: refuse to start where layers are to go to a GPU and none is seen.
        row_timeout: seconds one row may take.
        load_timeout: seconds that loading may take.
        scratch: a folder that only this user may enter and that is gone when the worker is, where the engine needs one.
        rows: of the largest partition, where it is known: no more are ever in work at once.
        workers: how many workers of the task share the machine.
        one_at_a_time: work on one row at a time, whatever the options say.
        show_prompts: say of each request what the model gets.
        restarted: an earlier worker died with rows in flight; what it needs may need time to be back.
    """

    task: Literal["generate", "embed"]
    model: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    tokenizer: str | None = None
    adapters: Sequence[tuple[str, float]] = ()
    projector: str | None = None
    require_gpu: bool = False
    row_timeout: float | None = None
    load_timeout: float = DEFAULT_LOAD_TIMEOUT
    scratch: str | None = None
    rows: int | None = None
    workers: int = 1
    one_at_a_time: bool = False
    show_prompts: bool = False
    restarted: bool = False

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
        row_spans: start and end of each part of the text that is the row's own, in characters; the rest is the job's
            author's. ``None``: all of it is the row's.
        turns: the messages that the text consists of, each its role and how many characters it has; ``None`` for a
            single one of the user.
        pictures: that stand before the text of the last message.
        prompt_text: the whole prompt as a text, where the engine prepared it so.
        answer: which of several answers to the same request is asked for, from 0.
        deadline: until when it may be worked on, by the monotonic clock, where that began before.
    """

    row: int
    attempt: int
    text: str
    tokens: Sequence[int] | None = None
    problem: str | None = None
    truncated: bool = False
    row_spans: Sequence[int] | None = None
    turns: Sequence[tuple[str, int]] | None = None
    pictures: Sequence[Picture] = ()
    prompt_text: str | None = None
    answer: int = 0
    deadline: float | None = None

    @property
    def parts(self) -> list[tuple[str, bool]]:
        """The text in parts, each with whether it is the author's."""
        if self.row_spans is None:
            return [(self.text, False)]
        borders = [0, *self.row_spans, len(self.text)]
        parts = [(self.text[start:end], number % 2 == 0) for number, (start, end) in enumerate(pairwise(borders))]
        return [part for part in parts if part[0]]

    @property
    def messages(self) -> list[tuple[str, list[tuple[str, bool]]]]:
        """Each message's role and its parts."""
        if self.turns is None:
            return [("user", self.parts)]
        messages, start = [], 0
        for role, length in self.turns:
            messages.append((role, cut(self.parts, start, start + length)))
            start += length
        return messages


def cut(parts: Sequence[tuple[str, bool]], start: int, end: int) -> list[tuple[str, bool]]:
    """The parts of a text between two of its positions."""
    kept, at = [], 0
    for text, is_authors in parts:
        inside = text[max(0, start - at) : max(0, end - at)]
        at += len(text)
        if inside:
            kept.append((inside, is_authors))
    return kept


@dataclass(frozen=True)
class Generation:
    """A generated answer.

    Args:
        response: the text.
        finish_reason: ``stop`` or ``length``.
        prompt_tokens, completion_tokens: the engine's counts; ``None`` where it gives none.
        confidence: 0 to 1, where it was asked for and the engine can say.
        cached_tokens: prompt tokens that the engine had evaluated before, for a row with the same beginning.
        log_probabilities: of its tokens, where they were asked for and the engine says them.
        others: further answers to the same request; ``completion_tokens`` are of all.
        reasoning: what the model thought before it answered, where it says so.
        reasoning_tokens: of ``completion_tokens``, those that it thought with; ``None`` where nobody counts them.
    """

    response: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int | None
    completion_tokens: int | None
    confidence: float | None = None
    cached_tokens: int | None = None
    log_probabilities: LogProbabilities | None = None
    others: tuple[Generation, ...] = ()
    reasoning: str | None = None
    reasoning_tokens: int | None = None


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
class DocumentEmbedding:
    """The chunks of a text and their vectors. The worker gathers it; engines are asked for the chunks.

    Args:
        chunks: ``int32[n, 3]``: where each begins and ends in the document, in characters, and how many tokens it has.
        vectors: ``float32[n, dimensions]``, cut, checked and normalised.
        pooled: the document's own vector, if it was asked for.
    """

    chunks: npt.NDArray[np.int32]
    vectors: npt.NDArray[np.float32]
    pooled: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class InvalidAnswer:
    """An answer that breaks the output schema, and how. The worker makes it; engines return the answer."""

    answer: Generation
    error: RowError


@dataclass(frozen=True)
class NoAnswer:
    """A generation that ended before there was an answer: its ``response`` means nothing, what it thought is kept."""

    generation: Generation
    error: RowError


def without_text(generation: Generation, error: RowError) -> NoAnswer:
    """The outcome of a row whose answer is worth nothing but was paid for: its tokens, and the error."""
    paid = Generation(
        response="",
        finish_reason=generation.finish_reason,
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=generation.completion_tokens,
        cached_tokens=generation.cached_tokens,
        reasoning_tokens=generation.reasoning_tokens,
    )
    return NoAnswer(paid, error)


Outcome = Union[Generation, Embedding, DocumentEmbedding, RowError, InvalidAnswer, NoAnswer]  # noqa: UP007 - a runtime value


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
        pads_rows: rows of one call are padded to the longest of them, so that they should be of like length, and
            ``tokens_per_call`` counts what they are then; their lengths must be known from :attr:`Request.tokens`.
        text_tokens: that a text to embed may have at most, those around it included, where the engine knows.
        settings: what it was started with and why, in one line, for people.
        trial: what was tried before the first row and found right, for people.
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
    pads_rows: bool = False
    text_tokens: int | None = None
    settings: str = ""
    trial: str = ""


class EngineLostError(Exception):
    """What an engine computes on went away with rows in flight, any of which may be to blame: the worker must leave.

    Args:
        message: what the worker did, for people, such as ``lost its server (Connection refused)``.
    """


class CannotCountError(Exception):
    """The tokens of a text could not be counted.

    Args:
        error: of the row whose text it is.
    """

    def __init__(self, error: RowError) -> None:
        super().__init__(error.message)
        self.error = error


class Engine(Protocol):
    """A loaded engine inside the worker process."""

    info: EngineInfo
    rows_per_call: int
    """How many rows one :meth:`run` takes at most; 1 where rows are independent requests."""

    def prepare(self, requests: Sequence[Request]) -> list[Request | RowError]:
        """Tokenise and check a batch, in order. Called by one thread, ahead of :meth:`run`."""
        ...

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """How many tokens the model reads for each text to embed, those around it included, in order.

        Asked where documents are cut into chunks, by the thread that prepares; an engine that cannot tell refuses to
        start for such a job.

        Raises:
            CannotCountError: one could not be counted.
        """
        ...

    def run(self, requests: Sequence[Request]) -> list[Outcome]:
        """Compute one outcome per request, in order. Called from ``info.calls`` threads at once.

        Raises:
            EngineLostError: no further request can be answered by this worker.
        """
        ...

    def close(self) -> None:
        """Free what it holds, before another one is started. Only without requests in flight."""
        ...
