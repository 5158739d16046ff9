"""Rendering ``{column}`` templates, row by row, as data only.

Placeholders name a column and nothing else: no attributes, no indexes, no conversions, nothing that executes. ``{{``
and ``}}`` stand for literal braces.
"""

from __future__ import annotations

import datetime
import decimal
import json
import string
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from airflow_mullama.errors import MissingColumnError, TemplateError
from airflow_mullama.rows import ErrorType, RowError


@dataclass(frozen=True)
class PromptTemplate:
    """A parsed template: literal texts with a column between each two.

    Args:
        literals: one more than columns.
        columns: the column rendered after the literal of the same position.
    """

    literals: tuple[str, ...]
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, template: str) -> PromptTemplate:
        """Parse ``template``.

        Raises:
            TemplateError: unbalanced braces, or a placeholder that is more than a column name.
        """
        if not isinstance(template, str):
            raise TemplateError(f"A template is a text such as 'Tag this ticket: {{text}}', not {template!r}.")
        literals, columns, literal = [], [], ""
        try:
            parts = list(string.Formatter().parse(template))
        except ValueError as error:
            raise TemplateError(
                f"The template {template[:80]!r} cannot be read: {error}; write a literal brace as '{{{{' or '}}}}'."
            ) from None
        for text, column, format_spec, conversion in parts:
            literal += text
            if column is None:
                continue
            if format_spec or conversion:
                raise TemplateError(
                    f"The placeholder of {column!r} has a format or conversion; a placeholder is only a column's name, "
                    f"as in {{{column}}}: format the column before this task."
                )
            if not column or column.isdigit() or any(character in column for character in "{}[]"):
                raise TemplateError(
                    f"{{{column}}} is not a placeholder: write a column's name between the braces, without index or "
                    "call, and a literal brace as '{{' or '}}'."
                )
            literals.append(literal)
            columns.append(column)
            literal = ""
        literals.append(literal)
        return cls(tuple(literals), tuple(columns))

    @classmethod
    def of_column(cls, column: str) -> PromptTemplate:
        """The template that is one column as it is."""
        return cls(("", ""), (column,))

    @property
    def distinct_columns(self) -> list[str]:
        """Columns to read, each once, in order of first use."""
        return list(dict.fromkeys(self.columns))

    def require_columns(self, available: Sequence[str], source: str | None = None) -> None:
        """Check that the input has every column of the template, before the run.

        Args:
            available: the input's columns.
            source: the input, for the message: of several partitions one may lack what the others have.

        Raises:
            MissingColumnError: names the missing columns and those there are.
        """
        missing = [column for column in self.distinct_columns if column not in available]
        if missing:
            named = "The input" if source is None else f"The input {source!r}"
            raise MissingColumnError(
                f"{named} has no column {', '.join(map(repr, missing))}; it has: {', '.join(available) or 'none'}."
            )

    def render(self, batch: pa.RecordBatch) -> list[str | RowError]:
        """Render one text per row of ``batch``, or say why a row has none. Never raises for what a row holds."""
        if not self.columns:
            return [self.literals[0]] * batch.num_rows
        values = {name: _column_texts(batch.column(name), name) for name in self.distinct_columns}
        if len(self.columns) == 1:
            head, tail = self.literals
            return [head + value + tail if isinstance(value, str) else value for value in values[self.columns[0]]]
        ordered = [values[name] for name in self.columns]
        return [self._join(row) for row in zip(*ordered, strict=True)]

    def _join(self, row: tuple[str | RowError, ...]) -> str | RowError:
        rendered = [self.literals[0]]
        for value, literal in zip(row, self.literals[1:], strict=True):
            if not isinstance(value, str):
                return value
            rendered.append(value)
            rendered.append(literal)
        return "".join(rendered)


def _column_texts(column: pa.Array, name: str) -> list[str | RowError]:
    null = RowError(ErrorType.NULL_INPUT, f"column {name!r} is null")
    if (microseconds := _without_nanoseconds(column.type)) is not None:
        column = column.cast(microseconds, safe=False)  # Python's own types have no nanoseconds
    try:
        values = column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):  # one undecodable value must not cost its batch
        return [_scalar_text(scalar, name, null) for scalar in column]
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if is_text:
        return [null if value is None else value for value in values]
    return [_text(value, name, null) for value in values]


def _without_nanoseconds(type_: pa.DataType) -> pa.DataType | None:
    if getattr(type_, "unit", None) != "ns":
        return None
    if pa.types.is_timestamp(type_):
        return pa.timestamp("us", type_.tz)
    return pa.time64("us") if pa.types.is_time64(type_) else pa.duration("us")


def _scalar_text(scalar: pa.Scalar, name: str, null: RowError) -> str | RowError:
    try:
        value = scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        return RowError(ErrorType.RENDER_ERROR, f"column {name!r} cannot be read as a value: {error}")
    return _text(value, name, null)


def _text(value: object, name: str, null: RowError) -> str | RowError:
    if value is None:
        return null
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, decimal.Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            return RowError(ErrorType.RENDER_ERROR, f"column {name!r} holds bytes that are not UTF-8: {error.reason}")
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError) as error:
        return RowError(ErrorType.RENDER_ERROR, f"column {name!r} cannot be written as text: {error}")
