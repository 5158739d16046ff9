"""Rows whose text is cut into chunks: asked chunk by chunk, and gathered until the row has its outcome.

One thread cuts and another gathers, with a lock between them. Chunks that were asked before are not asked again:
neither while they are on their way nor later, as long as their vectors are remembered, so that a document which is
asked once more for the sake of one chunk costs that chunk alone.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from airflow_mullama.documents.chunking import Chunking
from airflow_mullama.documents.splitter import NoRoomError, Span, Splitter
from airflow_mullama.engines.base import (
    CannotCountError,
    DocumentEmbedding,
    Embedding,
    Engine,
    EngineLostError,
    Outcome,
    Request,
)
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.worker.vectors import finish_vectors

# Chunks that are cut and tokenized together: enough for a call of any engine, and little beside a document.
BLOCK_CHUNKS = 32
# Vectors of chunks are remembered up to this many bytes, with their texts; the oldest are forgotten first.
REMEMBERED_BYTES = 64 << 20

Vector = npt.NDArray[np.float32]
Key = tuple[str, tuple[int, ...]]


@dataclass
class Document:
    """One row on its way.

    Args:
        request: the row's, with its whole text.
        spans: of its chunks, as far as it is cut.
        vectors: theirs, where they are known.
        missing: how many are not.
        is_cut: whether no more chunks will come.
        is_over: whether it has its outcome.
    """

    request: Request
    spans: list[Span] = field(default_factory=list)
    vectors: list[Vector | None] = field(default_factory=list)
    missing: int = 0
    is_cut: bool = False
    is_over: bool = False


@dataclass
class ChunkRequest(Request):
    """One chunk as the engine sees it; its ``row`` is the document's."""

    key: Key = ("", ())


class Documents:
    """The documents of one worker.

    Args:
        engine: counts tokens.
        settings: of the job (:meth:`airflow_mullama.jobs.job.Job.engine_settings`).

    Raises:
        ConfigurationError: chunks are to be longer than the model reads.
    """

    def __init__(self, engine: Engine, settings: Mapping[str, Any]) -> None:
        chunking = dict(settings["chunking"])
        self._part: int | None = chunking.pop("part")
        self._chunking = Chunking.of(chunking)
        self._engine = engine
        self._settings = settings
        self._lock = threading.Lock()
        self._over: list[tuple[Request, Outcome]] = []
        self._waiting: dict[Key, list[tuple[Document, int]]] = {}
        self._known: OrderedDict[Key, Vector] = OrderedDict()
        self._known_bytes = 0
        limit = engine.info.text_tokens
        if limit is not None and self._chunking.tokens > limit:
            raise ConfigurationError(
                f"chunking['tokens'] is {self._chunking.tokens}, and the model reads {limit} tokens of a text, those "
                f"around it included: make chunks of at most {limit}."
            )

    def chunks(self, request: Request) -> Iterator[list[Request]]:
        """Cut a row's text: blocks of chunks that are to be asked, each cut when it is taken.

        Whatever is wrong with a text is its row's outcome.

        Raises:
            EngineLostError: what the engine computes on is gone.
        """
        document = Document(request)
        block: list[Request] = []
        start, stop = self._place(request)
        splitter = Splitter(self._chunking, lambda text: self._count(self._chunk(request, text)))
        try:
            for span in splitter.spans(request.text[start:stop]):
                chunk = self._chunk(request, request.text[start + span.start : start + span.end])
                if self._is_new(document, span, chunk):
                    block.append(chunk)
                # What is known as asked for is asked for, also where a chunk has failed: other rows may wait for it.
                if len(block) >= BLOCK_CHUNKS or document.is_over:
                    yield block
                    block = []
                if document.is_over:
                    return
        except EngineLostError:
            raise
        except NoRoomError as error:
            self._fail(document, RowError(ErrorType.PROMPT_TOO_LONG, f"{error}: raise chunking['tokens']"))
        except CannotCountError as error:
            self._fail(document, error.error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this row's outcome
            self._fail(document, RowError(ErrorType.ENGINE_ERROR, f"{type(error).__name__}: {error}"))
        with self._lock:
            document.is_cut = True
            self._end_if_whole(document)
        yield block

    def take(self, finished: Sequence[tuple[Request, Outcome]]) -> list[tuple[Request, Outcome]]:
        """Take note of chunks that are done.

        Returns:
            Rows that have their outcome by now.
        """
        good = [(request, outcome) for request, outcome in finished if isinstance(outcome, Embedding)]
        vectors, errors = np.zeros((0, 1), np.float32), list[RowError | None]()
        if good:
            raw = np.stack([outcome.vector for _, outcome in good])
            vectors, errors = self._finished(raw, self._settings["dimensions"])
        with self._lock:
            for request, outcome in finished:
                if isinstance(request, ChunkRequest) and isinstance(outcome, RowError):
                    self._settle(request.key, outcome)
            for (request, _), vector, error in zip(good, vectors, errors, strict=True):
                assert isinstance(request, ChunkRequest)
                self._settle(request.key, error or vector)
            over, self._over = self._over, []
        return over

    def _finished(self, vectors: Vector, dimensions: int | None) -> tuple[Vector, list[RowError | None]]:
        return finish_vectors(
            vectors, normalize=self._settings["normalize"], dimensions=dimensions, dtype=self._settings["dtype"]
        )

    def _count(self, chunk: Request) -> int:
        (tokens,) = self._engine.count_tokens([chunk])
        return tokens

    def _place(self, request: Request) -> tuple[int, int]:
        """Where in a request the text is that is cut."""
        if self._part is None or request.row_spans is None:
            return 0, len(request.text)
        return request.row_spans[2 * self._part], request.row_spans[2 * self._part + 1]

    def _chunk(self, request: Request, text: str) -> ChunkRequest:
        """A request with a part of its document in the document's place."""
        start, stop = self._place(request)
        whole = request.text[:start] + text + request.text[stop:]
        spans = request.row_spans
        if spans is not None:
            shift = len(text) - (stop - start)
            spans = tuple(place if place <= start else place + shift for place in spans)
        return ChunkRequest(request.row, request.attempt, whole, row_spans=spans, key=(whole, tuple(spans or ())))

    # -- with the lock held, but for `_fail` -------------------------------------------------------------------------

    def _is_new(self, document: Document, span: Span, chunk: ChunkRequest) -> bool:
        """Add a chunk to its document; whether it must be asked for."""
        with self._lock:
            place = len(document.spans)
            document.spans.append(span)
            known = self._known.get(chunk.key)
            document.vectors.append(known)
            if known is not None:
                self._known.move_to_end(chunk.key)
                return False
            document.missing += 1
            waiting = self._waiting.setdefault(chunk.key, [])
            waiting.append((document, place))
            return len(waiting) == 1

    def _settle(self, key: Key, outcome: Vector | RowError) -> None:
        waiting = self._waiting.pop(key, [])
        if not isinstance(outcome, RowError):
            self._remember(key, outcome)
        for document, place in waiting:
            if document.is_over:
                continue
            if isinstance(outcome, RowError):
                span = document.spans[place]
                message = f"chunk {place} (characters {span.start} to {span.end}): {outcome.message}"
                self._end(document, RowError(outcome.error_type, message))
            else:
                document.vectors[place] = outcome
                document.missing -= 1
                self._end_if_whole(document)

    def _remember(self, key: Key, vector: Vector) -> None:
        self._known[key] = vector
        self._known_bytes += _size(key, vector)
        while self._known_bytes > REMEMBERED_BYTES:
            self._known_bytes -= _size(*self._known.popitem(last=False))

    def _fail(self, document: Document, error: RowError) -> None:
        with self._lock:
            if not document.is_over:
                self._end(document, error)

    def _end_if_whole(self, document: Document) -> None:
        if not document.is_over and document.is_cut and not document.missing:
            self._end(document, self._gathered(document))

    def _end(self, document: Document, outcome: Outcome) -> None:
        document.is_over = True
        document.vectors = []
        self._over.append((document.request, outcome))

    def _gathered(self, document: Document) -> DocumentEmbedding | RowError:
        vectors = np.stack([vector for vector in document.vectors if vector is not None])
        chunks = np.array([(span.start, span.end, span.tokens) for span in document.spans], np.int32)
        if not self._settings.get("pooled"):
            return DocumentEmbedding(chunks, vectors)
        weights = np.maximum(chunks[:, 2:], 1).astype(np.float64)
        mean = (vectors.astype(np.float64) * weights).sum(axis=0, keepdims=True) / weights.sum()
        pooled, (error,) = self._finished(mean.astype(np.float32), None)
        if error is not None:
            return RowError(error.error_type, f"the mean of {len(vectors)} chunks: {error.message}")
        return DocumentEmbedding(chunks, vectors, pooled[0])


def _size(key: Key, vector: Vector) -> int:
    return 2 * len(key[0]) + vector.nbytes + 256
