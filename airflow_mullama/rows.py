"""The row contract: what every output row says of itself, whichever engine ran.

Statuses, error types and output columns are listed here and nowhere else. Counts always reconcile:
``success + failed + invalid_output + skipped == rows``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import pyarrow as pa

from airflow_mullama.errors import ColumnClashError
from airflow_mullama.redaction.foreign_text import printable

MOST_ERROR_CHARACTERS = 2000
"""Of a row's message; some quote what a server or a model said."""


class Status(str, Enum):
    """What became of one input row."""

    SUCCESS = "success"
    FAILED = "failed"
    INVALID_OUTPUT = "invalid_output"
    """The model answered, and the answer breaks the output schema."""
    SKIPPED = "skipped"
    """The input was null, so nothing was asked."""


class ErrorType(str, Enum):
    """Stable codes for the ``error_type`` column: a ``WHERE`` clause can rely on them."""

    NULL_INPUT = "null_input"
    UNREADABLE_ROW = "unreadable_row"
    """A line of JSON Lines that is not JSON, a row of CSV with too few fields: its columns are null."""
    ROW_TOO_LARGE = "row_too_large"
    """What the row's prompt is made of is larger than this package holds in memory."""
    RENDER_ERROR = "render_error"
    UNREADABLE_IMAGE = "unreadable_image"
    """What stands for a picture is none: another format, damaged, too large, or a path that may not be read."""
    MISSING_IMAGE = "missing_image"
    """The file that a picture's path names is not there, or could not be read now."""
    EMPTY_INPUT = "empty_input"
    PROMPT_TOO_LONG = "prompt_too_long"
    ENGINE_ERROR = "engine_error"
    ENGINE_CRASH = "engine_crash"
    TIMEOUT = "timeout"
    INVALID_JSON = "invalid_json"
    SCHEMA_MISMATCH = "schema_mismatch"
    UNDECODABLE_TEXT = "undecodable_text"
    NON_FINITE_EMBEDDING = "non_finite_embedding"
    ZERO_EMBEDDING = "zero_embedding"
    RATE_LIMITED = "rate_limited"
    HTTP_ERROR = "http_error"
    """The server of the engine ``openai`` failed, or the way to it did."""
    REQUEST_REFUSED = "request_refused"
    """That server will never take this request: a status such as 400 or 422, or its content filter."""
    NO_ANSWER = "no_answer"
    """The model ended, or was cut, without an answer: it was still reasoning, or wants a tool called. The same request
    would end the same way, so it is not asked again."""

    @property
    def status(self) -> Status:
        """The status of a row that ends with this error."""
        if self is ErrorType.NULL_INPUT:
            return Status.SKIPPED
        if self in (ErrorType.INVALID_JSON, ErrorType.SCHEMA_MISMATCH):
            return Status.INVALID_OUTPUT
        return Status.FAILED

    @property
    def retryable(self) -> bool:
        """Whether asking again, now or in the next attempt of the task, can help.

        What the row's own text decides (too long, unrenderable, a crash that it alone causes) is not asked again.
        """
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        ErrorType.MISSING_IMAGE,
        ErrorType.ENGINE_ERROR,
        ErrorType.TIMEOUT,
        ErrorType.NON_FINITE_EMBEDDING,
        ErrorType.ZERO_EMBEDDING,
        ErrorType.RATE_LIMITED,
        ErrorType.HTTP_ERROR,
    }
)

RETRYABLE_ERROR_TYPES = tuple(sorted(error_type.value for error_type in _RETRYABLE))

STATUS_OF_ERROR_TYPE: Mapping[str, str] = {error_type.value: error_type.status.value for error_type in ErrorType}


@dataclass(frozen=True)
class RowError:
    """Why a row has no result: a code for machines and a message for people, which is made printable."""

    error_type: ErrorType
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", printable(self.message, MOST_ERROR_CHARACTERS))


ROW_COLUMN = "row"
"""A row's number, beside its outcome while that is staged; not a column of the output."""

TRUNCATED = "truncated"
"""The column of a job that may cut texts: whether this row's was; null in a row without a vector."""


CHUNKS = "chunks"
"""The column of a document's chunks: where each lies in the text, how many tokens it has, and its vector."""


@dataclass(frozen=True)
class ResultColumns:
    """The columns one kind of job adds to its input.

    Args:
        fields: added columns in output order, without prefix.
        result_names: those of them that hold the result and are null in a row without one.
        named_by_user: those of them that an output schema adds, under names that may mean something else elsewhere.
    """

    fields: tuple[pa.Field, ...]
    result_names: tuple[str, ...]
    named_by_user: tuple[str, ...] = ()

    @property
    def names_of_contract(self) -> list[str]:
        """Those whose meaning the row contract gives."""
        return [field.name for field in self.fields if field.name not in self.named_by_user]

    @property
    def schema(self) -> pa.Schema:
        """The added columns as a schema, without prefix: what a staged chunk holds besides its row numbers."""
        return pa.schema(list(self.fields))


INVALID_OUTPUT_TYPES = (ErrorType.INVALID_JSON.value, ErrorType.SCHEMA_MISMATCH.value)
"""Errors of rows that did answer: their ``response`` is kept, and within a task they are asked again."""


OF_SEVERAL_ANSWERS: Mapping[str, str] = {
    "response": "responses",
    "finish_reason": "finish_reasons",
    "mean_logprob": "mean_logprobs",
    "min_logprob": "min_logprobs",
}
"""Columns of an answer, and those that have all answers of a row where there are several."""
LOGPROBS = ("mean_logprob", "min_logprob")


REASONING, REASONING_TOKENS = "reasoning", "reasoning_tokens"
"""The columns of a job that keeps what its model thought; also in a row that failed (``no_answer``)."""


def generation_columns(
    typed_fields: Sequence[pa.Field] = (), *, several: bool = False, logprobs: bool = False, reasoning: bool = False
) -> ResultColumns:
    """Columns that generation adds.

    Args:
        typed_fields: of an output schema, each nullable; they come last.
        several: also all answers of a row.
        logprobs: also how likely an answer's tokens were.
        reasoning: also what the model thought before it answered.
    """
    of_logprobs = tuple(pa.field(name, pa.float64()) for name in LOGPROBS) if logprobs else ()
    of_one = (pa.field("response", pa.string()), pa.field("finish_reason", pa.string()), *of_logprobs)
    of_all = [pa.field(OF_SEVERAL_ANSWERS[field.name], pa.list_(field.type)) for field in of_one] if several else []
    of_reasoning = (pa.field(REASONING, pa.string()), pa.field(REASONING_TOKENS, pa.int32())) if reasoning else ()
    return ResultColumns(
        fields=(
            pa.field("response", pa.string()),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error_type", pa.string()),
            pa.field("error", pa.string()),
            pa.field("attempts", pa.int32(), nullable=False),
            pa.field("finish_reason", pa.string()),
            pa.field("prompt_tokens", pa.int32()),
            pa.field("completion_tokens", pa.int32()),
            *of_reasoning,
            *of_logprobs,
            *of_all,
            *typed_fields,
        ),
        result_names=("response", "finish_reason", *(field.name for field in (*of_logprobs, *of_all))),
        named_by_user=tuple(field.name for field in typed_fields),
    )


def embedding_columns(dimensions: int, value_type: pa.DataType, *, truncated: bool = False) -> ResultColumns:
    """Columns that embedding adds.

    Args:
        dimensions: length of each vector.
        value_type: Arrow type of its numbers, ``float32`` or ``float16``.
        truncated: also say of each row whether its text was cut; this column comes last.
    """
    return ResultColumns(
        fields=(
            pa.field("embedding", pa.list_(value_type, dimensions)),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error_type", pa.string()),
            pa.field("error", pa.string()),
            pa.field("attempts", pa.int32(), nullable=False),
            pa.field("prompt_tokens", pa.int32()),
            *((pa.field(TRUNCATED, pa.bool_()),) if truncated else ()),
        ),
        result_names=("embedding", *((TRUNCATED,) if truncated else ())),
    )


def chunk_list_type(dimensions: int, value_type: pa.DataType) -> pa.DataType:
    """The type of :data:`CHUNKS`.

    Args:
        dimensions: length of each vector.
        value_type: Arrow type of its numbers.
    """
    fields = [("start", pa.int32()), ("end", pa.int32()), ("tokens", pa.int32())]
    return pa.list_(pa.struct([*fields, ("embedding", pa.list_(value_type, dimensions))]))


def document_columns(dimensions: int, value_type: pa.DataType, *, pooled: bool) -> ResultColumns:
    """Columns that embedding adds where texts are cut into chunks.

    Args:
        dimensions, value_type: of each vector.
        pooled: also a vector of the whole document.
    """
    plain = embedding_columns(dimensions, value_type)
    chunks = pa.field(CHUNKS, chunk_list_type(dimensions, value_type))
    vector, *others = plain.fields
    return ResultColumns(
        fields=(chunks, *((vector,) if pooled else ()), *others),
        result_names=(CHUNKS, *(("embedding",) if pooled else ())),
    )


GENERATION_COLUMN_NAMES = tuple(
    field.name for field in generation_columns(several=True, logprobs=True, reasoning=True).fields
)
EMBEDDING_COLUMN_NAMES = tuple(field.name for field in embedding_columns(1, pa.float32()).fields)


def refuse_column_clash(input_names: list[str], added_names: tuple[str, ...], output_prefix: str) -> None:
    """Refuse an input that already has a column of an output column's name, in whatever case: DuckDB, Spark and Hive
    do not tell columns apart by case.

    Raises:
        ColumnClashError: names the columns and the remedy.
    """
    added = {(output_prefix + name).lower() for name in added_names}
    clash = [name for name in input_names if name.lower() in added]
    if clash:
        listed = ", ".join(repr(name) for name in clash)
        raise ColumnClashError(
            f"The input already has the column(s) {listed} that this job would add, or that only differ in case; "
            f"set output_prefix= to a text that makes the new names different (now {output_prefix!r})."
        )
