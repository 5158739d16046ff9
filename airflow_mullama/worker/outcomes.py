"""Outcomes as record batches, after the checks that are the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from airflow_mullama.engines.base import Embedding, EngineSettings, Generation, InvalidAnswer, Outcome, Request
from airflow_mullama.engines.vectors import finish_vectors
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.schemas import OutputSchema, Violation, parse_answer
from airflow_mullama.worker.protocol import outcome_schema

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
        self._schema = outcome_schema(settings.task, self._stored if settings.task == "embed" else None)

    def build(self, finished: Sequence[tuple[Request, Outcome]]) -> pa.RecordBatch:
        """One row per outcome, in the order given."""
        if self._task == "embed":
            return self._embeddings(finished)
        return self._generations(finished)

    def _generations(self, finished: Sequence[tuple[Request, Outcome]]) -> pa.RecordBatch:
        outcomes = [self._checked(request, outcome) for request, outcome in finished]
        answers = [_answer(outcome) for outcome in outcomes]
        return pa.RecordBatch.from_arrays(
            [
                *_common(finished, outcomes, [answer.prompt_tokens if answer else None for answer in answers]),
                pa.array([answer.response if answer else None for answer in answers], pa.string()),
                pa.array([answer.finish_reason if answer else None for answer in answers], pa.string()),
                pa.array([answer.completion_tokens if answer else None for answer in answers], pa.int32()),
                pa.array([answer.confidence if answer else None for answer in answers], pa.float64()),
                pa.array([answer.cached_tokens if answer else None for answer in answers], pa.int32()),
            ],
            schema=self._schema,
        )

    def _checked(self, request: Request, outcome: Outcome) -> Outcome:
        outcome = check_text(request, outcome)
        if self._output_schema is None or not isinstance(outcome, Generation):
            return outcome
        violation = parse_answer(outcome.response, self._output_schema)
        if not isinstance(violation, Violation):
            return outcome
        error = violation.row_error
        if outcome.finish_reason == "length":
            limit = int(self._settings["max_tokens"])
            after = "" if outcome.completion_tokens is None else f" after {outcome.completion_tokens} tokens"
            error = replace(
                error,
                message=f"{error.message}; the answer was cut{after}: raise "
                f"max_tokens (now {limit}; twice as much is a start) and n_ctx if that is the limit",
            )
        return InvalidAnswer(outcome, error)

    def _embeddings(self, finished: Sequence[tuple[Request, Outcome]]) -> pa.RecordBatch:
        outcomes: list[Outcome] = [outcome for _, outcome in finished]
        good = np.array([isinstance(outcome, Embedding) for outcome in outcomes], dtype=bool)
        given = [outcome.vector for outcome in outcomes if isinstance(outcome, Embedding)]
        kept = np.zeros((0, self._stored), np.float32)
        if given:
            lengths = {len(vector) for vector in given}
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
                    outcomes[place] = error
        vectors = kept
        if len(kept) < len(finished):  # rows without a vector take the room of one too
            vectors = np.zeros((len(finished), self._stored), np.float32)
            vectors[good] = kept
        good = np.array([isinstance(outcome, Embedding) for outcome in outcomes], dtype=bool)
        values = pa.array(vectors.reshape(-1), pa.float32())
        mask = None if good.all() else pa.array(~good)
        column = pa.FixedSizeListArray.from_arrays(values, self._stored, mask=mask)
        tokens = [outcome.prompt_tokens if isinstance(outcome, Embedding) else None for outcome in outcomes]
        truncated = [outcome.truncated if isinstance(outcome, Embedding) else None for outcome in outcomes]
        return pa.RecordBatch.from_arrays(
            [*_common(finished, outcomes, tokens), column, pa.array(truncated, pa.bool_())], schema=self._schema
        )


def _common(
    finished: Sequence[tuple[Request, Outcome]], outcomes: Sequence[Outcome], prompt_tokens: list[int | None]
) -> list[pa.Array]:
    errors = [
        outcome.error if isinstance(outcome, InvalidAnswer) else outcome if isinstance(outcome, RowError) else None
        for outcome in outcomes
    ]
    return [
        pa.array([request.row for request, _ in finished], pa.int64()),
        pa.array([error.error_type.value if error else None for error in errors], pa.string()),
        pa.array([error.message if error else None for error in errors], pa.string()),
        pa.array(prompt_tokens, pa.int32()),
    ]


def _answer(outcome: Outcome) -> Generation | None:
    if isinstance(outcome, InvalidAnswer):
        return outcome.answer
    return outcome if isinstance(outcome, Generation) else None


def check_text(request: Request, outcome: Outcome) -> Outcome:
    """Refuse a text with replacement characters that the request did not have.

    An answer cut at its last token may end inside a character: that much is cut off with it and is no error.
    """
    if not isinstance(outcome, Generation) or REPLACEMENT not in outcome.response or REPLACEMENT in request.text:
        return outcome
    if outcome.finish_reason == "length":
        outcome = replace(outcome, response=outcome.response.rstrip(REPLACEMENT))
        if REPLACEMENT not in outcome.response:
            return outcome
    return RowError(
        ErrorType.UNDECODABLE_TEXT,
        "the model's answer holds bytes that are not UTF-8 text (shown as replacement characters)",
    )
