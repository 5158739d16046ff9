"""Which of a table's types holds the values of a column of Arrow's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from airflow_mullama.errors import UnsupportedColumnError
from airflow_mullama.storage.parquet.vector_columns import (
    from_stored,
    may_be_stored_as,
    with_plain_lists,
    without_fixed_size,
)

MICROSECONDS = "us"


@dataclass(frozen=True)
class TableTypes:
    """The types of one format.

    Args:
        name: of the format, for people.
        others: what takes the place of types that it does not have.
        has_times: whether it has a time of day.
    """

    name: str
    others: Mapping[pa.DataType, pa.DataType] = field(default_factory=dict)
    has_times: bool = False

    def of(self, column: str, kind: pa.DataType) -> pa.DataType:
        """The type that a column has in a table: none of its values changes.

        Raises:
            UnsupportedColumnError: there is none.
        """
        found = self._of(column, kind)
        return self.others.get(found, found)

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The columns as a table has them; all of them may be null."""
        return pa.schema([pa.field(one.name, self.of(one.name, one.type)) for one in schema])

    def _of(self, column: str, kind: pa.DataType) -> pa.DataType:
        types = pa.types
        if isinstance(kind, pa.BaseExtensionType):
            return self.of(column, kind.storage_type)
        if types.is_dictionary(kind):
            return self.of(column, kind.value_type)
        if types.is_struct(kind):
            return pa.struct([pa.field(one.name, self.of(column, one.type)) for one in kind])
        if types.is_map(kind):
            return pa.map_(self.of(column, kind.key_type), self.of(column, kind.item_type))
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            return pa.list_(pa.field("element", self.of(column, kind.value_type)))
        if types.is_timestamp(kind):
            return pa.timestamp(MICROSECONDS, None if kind.tz is None else "UTC")
        if types.is_date(kind):
            return pa.date32()
        if types.is_time(kind) and self.has_times:
            return pa.time64(MICROSECONDS)
        if kind in _WIDER:
            return _WIDER[kind]
        if _is_plain(kind):
            return kind
        raise UnsupportedColumnError(
            f"The column {column!r} is of the type {kind}, which tables of {self.name} do not have; leave it out of "
            "the input, or write it as another type."
        )


_WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.int64(),
    pa.float16(): pa.float32(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
}


def _is_plain(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_decimal(kind):
        return bool(types.is_decimal128(kind))
    return bool(
        types.is_boolean(kind)
        or types.is_signed_integer(kind)
        or types.is_floating(kind)
        or types.is_string(kind)
        or types.is_binary(kind)
        or types.is_fixed_size_binary(kind)
    )


def to_table(column: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    """A column as a table's type.

    Raises:
        UnsupportedColumnError: a value would change.
    """
    column = with_plain_lists(column)
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    if column.type.equals(kind):
        return column
    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        raise UnsupportedColumnError(
            f"The column {name!r} is of the type {column.type} and has a value that the table's type {kind} cannot "
            f"hold ({error}); write it as another type, or leave it out of the input."
        ) from error


def from_table(column: pa.ChunkedArray | pa.Array, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    """A column that was read from a table or a file, as the type that it had before."""
    if may_be_stored_as(column.type, kind):
        return from_stored(column, kind)
    return from_stored(column.cast(without_fixed_size(kind)), kind)


def same_type(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether two types hold the same, whatever may be null and whatever the elements of lists are called."""
    types = pa.types
    if types.is_list(one) and types.is_list(other):
        return same_type(one.value_type, other.value_type)
    if types.is_map(one) and types.is_map(other):
        return same_type(one.key_type, other.key_type) and same_type(one.item_type, other.item_type)
    if types.is_struct(one) and types.is_struct(other):
        return [child.name for child in one] == [child.name for child in other] and all(
            same_type(mine.type, theirs.type) for mine, theirs in zip(one, other, strict=True)
        )
    return bool(one.equals(other))
