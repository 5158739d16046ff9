"""Outcomes as record batches, after the checks that are the same for every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_mullama.byte_bounds import FRAME_BYTES
from airflow_mullama.engines.base import (
    DocumentEmbedding,
    Embedding,
    EngineSettings,
    Generation,
    InvalidAnswer,
    NoAnswer,
    Outcome,
    Request,
    without_text,
)
from airflow_mullama.engines.reasoning import Reasoning
from airflow_mullama.rows import CHUNKS, ErrorType, RowError, chunk_list_type
from airflow_mullama.schemas import OutputSchema, Violation, parse_answer, typed_columns
from airflow_mullama.worker.protocol import outcome_schema
from airflow_mullama.worker.vectors import finish_vectors

# Outcomes that are no errors.
RESULTS = frozenset((Generation, Embedding, DocumentEmbedding))
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class OutcomeBatches:
    """Builds the batches of one job.

    Args:
        settings: of the job.
        dimensions: length of the model's vectors, for embedding.
    """

    def __init__(self, settings: EngineSettings, dimensions: int | None) -> None:
        self._task = settings.task
        self._settings = settings.settings
        recorded = self._settings.get("output_schema")
        self._output_schema = OutputSchema.from_json(recorded) if recorded else None
        if settings.task == "embed":
            self._stored = int(self._settings["dimensions"] or dimensions or 1)
            self._value_type = pa.type_for_alias(self._settings["dtype"])
            self._cuts = bool(self._settings.get("chunking"))
            chunks = chunk_list_type(self._stored, self._value_type) if self._cuts else None
            self._schema = outcome_schema("embed", self._stored, chunks=chunks)
        else:
            answer_fields = self._output_schema.fields if self._output_schema else ()
            self._schema = outcome_schema("generate", answer_fields=answer_fields)
            self._keeps_reasoning = Reasoning.of(self._settings).mode == "separate"

    def build(self, finished: Sequence[tuple[Request, Outcome]]) -> pa.RecordBatch:
        """One row per outcome, in the order given."""
        if self._task == "embed":
            return self._documents(finished) if self._cuts else self._embeddings(finished)
        return self._generations(finished)

    def _generations(self, finished: Sequence[tuple[Request, Outcome]]) -> pa.RecordBatch:
        checked = [self._checked(request, outcome) for request, outcome in finished]
        outcomes = [outcome for outcome, _ in checked]
        written = [_written(outcome) for outcome in outcomes]
        answers = written
        if NoAnswer in map(type, outcomes):
            answers = [
                None if isinstance(outcome, NoAnswer) else one for outcome, one in zip(outcomes, written, strict=True)
            ]
        typed = []
        if self._output_schema is not None:
            values = [value for _, value in checked]
            typed.append(
                pa.StructArray.from_arrays(
                    typed_columns(values, self._output_schema),
                    fields=list(self._output_schema.fields),
                    mask=pa.array([value is None for value in values], pa.bool_()),
                )
            )
        return pa.RecordBatch.from_arrays(
            [
                *_common(finished, outcomes, [one.prompt_tokens if one else None for one in written]),
                pa.array([answer.response if answer else None for answer in answers], pa.string()),
                pa.array([answer.finish_reason if answer else None for answer in answers], pa.string()),
                pa.array([one.completion_tokens if one else None for one in written], pa.int32()),
                pa.array([answer.confidence if answer else None for answer in answers], pa.float64()),
                pa.array([one.cached_tokens if one else None for one in written], pa.int32()),
                *_logprobs(answers),
                *_of_all(answers),
                pa.array([one.reasoning if one and self._keeps_reasoning else None for one in written], pa.string()),
                pa.array([one.reasoning_tokens if one else None for one in written], pa.int32()),
                *typed,
            ],
            schema=self._schema,
        )

    def _checked(self, request: Request, outcome: Outcome) -> tuple[Outcome, dict[str, Any] | None]:
        """The outcome after the checks, and the answer's values by field if it keeps to the output schema."""
        checked = check_text(request, outcome)
        if isinstance(outcome, Generation) and isinstance(checked, RowError):
            return without_text(outcome, checked), None
        outcome = checked
        if self._output_schema is None or not isinstance(outcome, Generation):
            return outcome, None
        read = parse_answer(outcome.response, self._output_schema)
        if not isinstance(read, Violation):
            return outcome, read
        error = read.row_error
        if outcome.finish_reason == "length":
            limit = int(self._settings["max_tokens"])
            after = "" if outcome.completion_tokens is None else f" after {outcome.completion_tokens} tokens"
            error = replace(
                error,
                message=f"{error.message}; the answer was cut{after}: raise "
                f"max_tokens (now {limit}; twice as much is a start) and n_ctx if that is the limit",
            )
        return InvalidAnswer(outcome, error), None

    def _documents(self, finished: Sequence[tuple[Request, Outcome]]) -> pa.RecordBatch:
        outcomes = [outcome for _, outcome in finished]
        found = [outcome if isinstance(outcome, DocumentEmbedding) else None for outcome in outcomes]
        whole = [document for document in found if document is not None]
        ends = np.cumsum([0, *(0 if document is None else len(document.chunks) for document in found)])
        chunks = np.concatenate([document.chunks for document in whole]) if whole else np.zeros((0, 3), np.int32)
        vectors = np.concatenate([document.vectors for document in whole]) if whole else np.zeros(0, np.float32)
        values = pa.array(vectors.reshape(-1).astype(self._settings["dtype"], copy=False), self._value_type)
        kind = self._schema.field(CHUNKS).type
        columns = [pa.array(chunks[:, place], pa.int32()) for place in range(3)]
        column = pa.ListArray.from_arrays(
            pa.array(ends, pa.int32()),
            pa.StructArray.from_arrays(
                [*columns, pa.FixedSizeListArray.from_arrays(values, self._stored)], fields=list(kind.value_type)
            ),
            type=kind,
            mask=pa.array([document is None for document in found], pa.bool_()),
        )
        pooled = [None if document is None else document.pooled for document in found]
        tokens = [None if document is None else int(document.chunks[:, 2].sum()) for document in found]
        return pa.RecordBatch.from_arrays(
            [
                *_common(finished, outcomes, tokens),
                pa.array(pooled, self._schema.field("embedding").type),
                pa.nulls(len(finished), pa.bool_()),
                column,
            ],
            schema=self._schema,
        )

    def _embeddings(self, finished: Sequence[tuple[Request, Outcome]]) -> pa.RecordBatch:
        outcomes: list[Outcome] = [outcome for _, outcome in finished]
        found = [outcome if isinstance(outcome, Embedding) else None for outcome in outcomes]
        given = [one.vector for one in found if one is not None]
        good = _present(found)
        kept = np.zeros((0, self._stored), np.float32)
        if given:
            lengths = set(map(len, given))
            if min(lengths) < self._stored or len(lengths) > 1:
                raise ValueError(f"the engine gave vectors of {lengths} numbers where {self._stored} were expected")
            kept, errors = finish_vectors(
                np.concatenate(given).reshape(len(given), -1),
                normalize=self._settings["normalize"],
                dimensions=self._settings["dimensions"],
                dtype=self._settings["dtype"],
            )
            for place, error in zip(np.flatnonzero(good), errors, strict=True):
                if error is not None:
                    outcomes[place], found[place] = error, None
        vectors = kept
        if len(kept) < len(finished):  # rows without a vector take the room of one too
            vectors = np.zeros((len(finished), self._stored), np.float32)
            vectors[good] = kept
        good = _present(found)
        values = pa.array(vectors.reshape(-1), pa.float32())
        mask = None if good.all() else pa.array(~good)
        column = pa.FixedSizeListArray.from_arrays(values, self._stored, mask=mask)
        tokens = [one.prompt_tokens if one else None for one in found]
        truncated = [one.truncated if one else None for one in found]
        return pa.RecordBatch.from_arrays(
            [*_common(finished, outcomes, tokens), column, pa.array(truncated, pa.bool_())], schema=self._schema
        )


def _present(found: Sequence[Embedding | None]) -> npt.NDArray[np.bool_]:
    return np.array([one is not None for one in found], dtype=bool)


def _logprobs(answers: Sequence[Generation | None]) -> list[pa.Array]:
    """The columns of an answer's log-probabilities."""
    found = [answer.log_probabilities if answer else None for answer in answers]
    return [
        pa.array([one.mean if one else None for one in found], pa.float64()),
        pa.array([one.least if one else None for one in found], pa.float64()),
    ]


def _of_all(answers: Sequence[Generation | None]) -> list[pa.Array]:
    """The columns of all answers of a row, null where there is one at most."""
    several = [[answer, *answer.others] if answer and answer.others else None for answer in answers]
    if not any(several):
        kinds = (pa.string(), pa.string(), pa.float64(), pa.float64())
        return [pa.nulls(len(several), pa.list_(kind)) for kind in kinds]

    def column(of: Callable[[Generation], Any], kind: pa.DataType) -> pa.Array:
        return pa.array([None if one is None else [of(answer) for answer in one] for one in several], pa.list_(kind))

    return [
        column(lambda answer: answer.response, pa.string()),
        column(lambda answer: answer.finish_reason, pa.string()),
        column(lambda answer: answer.log_probabilities and answer.log_probabilities.mean, pa.float64()),
        column(lambda answer: answer.log_probabilities and answer.log_probabilities.least, pa.float64()),
    ]


def _common(
    finished: Sequence[tuple[Request, Outcome]], outcomes: Sequence[Outcome], prompt_tokens: list[int | None]
) -> list[pa.Array]:
    if RESULTS.issuperset(map(type, outcomes)):
        errors: list[RowError | None] = [None] * len(outcomes)
    else:
        errors = [_error(outcome) for outcome in outcomes]
    return [
        pa.array([request.row for request, _ in finished], pa.int64()),
        pa.array([error.error_type.value if error else None for error in errors], pa.string()),
        pa.array([error.message if error else None for error in errors], pa.string()),
        pa.array(prompt_tokens, pa.int32()),
    ]


def _error(outcome: Outcome) -> RowError | None:
    if isinstance(outcome, (InvalidAnswer, NoAnswer)):
        return outcome.error
    return outcome if isinstance(outcome, RowError) else None


def _written(outcome: Outcome) -> Generation | None:
    """What a model wrote, whatever became of it."""
    if isinstance(outcome, Generation):
        return outcome
    if isinstance(outcome, InvalidAnswer):
        return outcome.answer
    return outcome.generation if isinstance(outcome, NoAnswer) else None


def answer_bytes(outcome: Outcome) -> int:
    """About what an outcome weighs."""
    if isinstance(outcome, Generation):
        return len(outcome.response)
    if isinstance(outcome, Embedding):
        return int(outcome.vector.nbytes)
    return int(outcome.vectors.nbytes) if isinstance(outcome, DocumentEmbedding) else 0


def in_frames(finished: Sequence[tuple[Request, Outcome]]) -> Iterator[Sequence[tuple[Request, Outcome]]]:
    """Outcomes as they are sent: at once no more than weigh ``FRAME_BYTES``, or one."""
    first = size = 0
    weights = [answer_bytes(outcome) for _, outcome in finished]
    if finished and sum(weights) <= FRAME_BYTES:
        yield finished
        return
    for place, weight in enumerate(weights):
        if place > first and size + weight > FRAME_BYTES:
            yield finished[first:place]
            first, size = place, 0
        size += weight
    if first < len(finished):
        yield finished[first:]


def check_text(request: Request, outcome: Outcome) -> Outcome:
    """Refuse a text with replacement characters that the request did not have.

    An answer cut at its last token may end inside a character: that much is cut off with it and is not an error.
    """
    if not isinstance(outcome, Generation):
        return outcome
    if not outcome.others and REPLACEMENT not in outcome.response:
        return outcome
    others = [check_text(request, other) for other in outcome.others]
    if outcome.others:
        outcome = replace(outcome, others=tuple(other for other in others if isinstance(other, Generation)))
        if broken := [other for other in others if not isinstance(other, Generation)]:
            return broken[0]
    if REPLACEMENT not in outcome.response or REPLACEMENT in request.text:
        return outcome
    if outcome.finish_reason == "length":
        outcome = replace(outcome, response=outcome.response.rstrip(REPLACEMENT))
        if REPLACEMENT not in outcome.response:
            return outcome
    return RowError(
        ErrorType.UNDECODABLE_TEXT,
        "the model's answer holds bytes that are not UTF-8 text (shown as replacement characters)",
    )
