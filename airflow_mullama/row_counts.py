"""What became of rows and what they cost, as numbers that can be added up.

A figure is a field of :class:`RowCounts` and is named nowhere else: counting a batch, adding up partitions, the
manifest and its JSON take it from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.rows import CHUNKS, REASONING_TOKENS, RETRYABLE_ERROR_TYPES, TRUNCATED, ErrorType, Status

_COLUMN = "column"
_OF_ATTEMPT = {"of_attempt": True}


@dataclass(frozen=True)
class RowCounts:
    """What became of some rows: those of a batch, of a partition or of several. Tokens are those of all of them.

    Args:
        status_counts: rows by status.
        error_types: rows by error type.
        attempts: how often the engine was asked.
        prompt_tokens, completion_tokens: of all rows, also of earlier attempts of the task.
        reasoning_tokens: of the completion tokens, those that models thought with; ``None`` unless the job keeps them.
        truncated_rows: rows whose text was cut at the model's limit; ``None`` unless the job allows it.
        chunks: of the texts that are cut into them; ``None`` unless the job does so.
        computed_rows: rows the engine was asked for in this attempt.
        resumed_rows: rows found in the stage of an earlier attempt.
        repaired_rows: rows of the published output that failed and were asked again.
        reused_rows: rows taken from the published output of an earlier state of the input.
        deduplicated_rows: rows that got the outcome of another row with the same request, in this attempt.
        cached_prompt_tokens: prompt tokens that the engine had evaluated before, for a row with the same beginning, and
            did not evaluate again in this attempt.
    """

    status_counts: Mapping[str, int] = field(default_factory=dict)
    error_types: Mapping[str, int] = field(default_factory=dict)
    attempts: int = field(default=0, metadata={_COLUMN: "attempts"})
    prompt_tokens: int = field(default=0, metadata={_COLUMN: "prompt_tokens"})
    completion_tokens: int = field(default=0, metadata={_COLUMN: "completion_tokens"})
    reasoning_tokens: int | None = field(default=None, metadata={_COLUMN: REASONING_TOKENS})
    truncated_rows: int | None = field(default=None, metadata={_COLUMN: TRUNCATED})
    chunks: int | None = field(default=None, metadata={_COLUMN: CHUNKS})
    computed_rows: int = field(default=0, metadata=_OF_ATTEMPT)
    resumed_rows: int = field(default=0, metadata=_OF_ATTEMPT)
    repaired_rows: int = field(default=0, metadata=_OF_ATTEMPT)
    reused_rows: int = field(default=0, metadata=_OF_ATTEMPT)
    deduplicated_rows: int = field(default=0, metadata=_OF_ATTEMPT)
    cached_prompt_tokens: int = field(default=0, metadata={_COLUMN: "cached_tokens", **_OF_ATTEMPT})

    @property
    def rows(self) -> int:
        """All rows that are accounted for."""
        return sum(self.status_counts.values())

    @property
    def failed_rows(self) -> int:
        """Rows with neither a result nor a null input."""
        counts = self.status_counts
        return counts.get(Status.FAILED.value, 0) + counts.get(Status.INVALID_OUTPUT.value, 0)

    @property
    def error_ratio(self) -> float:
        """The share of the rows that failed, 0 to 1."""
        return self.failed_rows / self.rows if self.rows else 0.0

    @property
    def failure_types(self) -> dict[str, int]:
        """Failed rows by error type, sorted: a null input is not a failure."""
        return {
            error_type: count
            for error_type, count in sorted(self.error_types.items())
            if error_type != ErrorType.NULL_INPUT.value and count
        }

    @property
    def retryable_rows(self) -> int:
        """Failed rows that another attempt may mend."""
        return sum(self.error_types.get(error_type, 0) for error_type in RETRYABLE_ERROR_TYPES)

    @property
    def computed_share(self) -> float:
        """The share of the tokens that this attempt paid for, 0 to 1; skipped rows have none."""
        asked = self.rows - self.status_counts.get(Status.SKIPPED.value, 0)
        return self.computed_rows / asked if asked else 0.0

    def figures(self) -> dict[str, Any]:
        """Each figure by its name."""
        return {name: getattr(self, name) for name in FIGURES}


FIGURES = tuple(one.name for one in fields(RowCounts))
OF_ATTEMPT = tuple(one.name for one in fields(RowCounts) if one.metadata.get("of_attempt"))
"""Those that say what one attempt did: an output that was already right has none of them."""

_BY_NAME = ("status_counts", "error_types")
_NUMBERS = tuple(name for name in FIGURES if name not in _BY_NAME)
_COLUMN_OF = {one.name: one.metadata[_COLUMN] for one in fields(RowCounts) if _COLUMN in one.metadata}


def count_rows(
    rows: pa.RecordBatch | pa.Table,
    outcomes: pa.RecordBatch | None = None,
    *,
    computed: bool = False,
    deduplicated: bool = False,
) -> RowCounts:
    """Count the rows of a chunk.

    Args:
        rows: of a job's added columns, those whose meaning the row contract gives.
        outcomes: what the engine sent for them, where that says more.
        computed: whether the engine did them in this attempt.
        deduplicated: whether they got the outcome of another row with the same request.
    """
    sums: dict[str, Any] = {}
    for name, column in _COLUMN_OF.items():
        # The engine's batches have every column of their task, also those that this job does not add.
        for batch in (rows, outcomes if name in OF_ATTEMPT else None):
            if batch is not None and column in batch.schema.names:
                values = batch.column(column)
                counted = pc.list_value_length(values) if pa.types.is_list(values.type) else values
                sums[name] = pc.sum(counted).as_py() or 0
                break
    return RowCounts(
        status_counts=_value_counts(rows.column("status")),
        error_types=_value_counts(rows.column("error_type")),
        computed_rows=rows.num_rows if computed else 0,
        deduplicated_rows=rows.num_rows if deduplicated else 0,
        **sums,
    )


def add_up(counts: Iterable[RowCounts]) -> RowCounts:
    """The sum of every figure. One that is ``None`` everywhere stays so."""
    total: dict[str, Any] = {}
    for one in counts:
        for name in _BY_NAME:
            into = total.setdefault(name, {})
            for key, count in getattr(one, name).items():
                if count:
                    into[key] = into.get(key, 0) + count
        for name in _NUMBERS:
            if (value := getattr(one, name)) is not None:
                total[name] = total.get(name, 0) + value
    return RowCounts(**total)


def figures_from_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that a manifest's JSON has.

    Raises:
        KeyError: it does not say what became of its rows.
        ValueError: a figure is not a number, or its rows and its statuses contradict each other.
    """
    found = {name: value[name] for name in FIGURES if name in value}
    for name, figure in found.items():
        by_name = isinstance(figure, Mapping)
        amounts = figure.values() if by_name else [figure]
        if by_name != (name in _BY_NAME) or not all(isinstance(one, int) or one is None for one in amounts):
            raise ValueError(f"{name} is {figure!r}")
    if sum(value["status_counts"].values()) != value["rows"]:
        raise ValueError(f"{value['rows']} rows, and {value['status_counts']} are accounted for")
    return found


def listed(counts: Mapping[str, int]) -> str:
    """``3 failed, 1200 success``."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _value_counts(column: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    return {
        item["values"].as_py(): item["counts"].as_py() for item in pc.value_counts(column) if item["values"].is_valid
    }
