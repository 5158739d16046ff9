"""Vectors in Parquet: a list of fixed size where this Arrow can keep it, a plain list where it cannot.

PyArrow before 25 refuses to write a list of fixed size that is null, and before 26 it cannot read one back: a partition
with one failed row would be lost. (Found by trying versions 17 to 26.) Parquet itself knows only plain lists; every
reader understands these.
"""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


@functools.cache
def keeps_null_vectors() -> bool:
    """Whether this Arrow reads null lists of fixed size back from Parquet, found out by doing it."""
    table = pa.table({"vector": pa.array([[1.0], None, [2.0]], pa.list_(pa.float32(), 1))})
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(table, sink)
        return bool(pq.ParquetFile(pa.BufferReader(sink.getvalue())).read().equals(table))
    except pa.ArrowException:
        return False


def stored_type(kind: pa.DataType) -> pa.DataType:
    """The type that a column has in the Parquet file, vectors inside of lists and structs too."""
    return kind if keeps_null_vectors() else without_fixed_size(kind)


def without_fixed_size(kind: pa.DataType) -> pa.DataType:
    """The type with plain lists in the place of those of fixed size."""
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_type)
    if pa.types.is_list(kind):
        return pa.list_(without_fixed_size(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(without_fixed_size(field.type)) for field in kind])
    return kind


def may_be_stored_as(stored: pa.DataType, kind: pa.DataType) -> bool:
    """Whether a column of a Parquet file, whichever Arrow wrote it, may be one of this type."""
    return bool(stored == kind or without_fixed_size(stored) == without_fixed_size(kind))


def is_vector(kind: pa.DataType) -> bool:
    """Whether a column of a Parquet file holds vectors."""
    if pa.types.is_fixed_size_list(kind):
        return True
    return bool(pa.types.is_list(kind) and pa.types.is_floating(kind.value_type))


def holds_vectors(kind: pa.DataType) -> bool:
    """Whether it does, or has them inside of lists and structs."""
    if is_vector(kind):
        return True
    return (pa.types.is_list(kind) and holds_vectors(kind.value_type)) or (
        pa.types.is_struct(kind) and any(holds_vectors(field.type) for field in kind)
    )


def to_stored(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as :func:`stored_type` says."""
    return _as(column, stored_type(column.type))


def from_stored(column: pa.ChunkedArray | pa.Array, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    """A column that was read from Parquet, as the type that it had before, whichever Arrow wrote it."""
    return _as(column, kind) if holds_vectors(kind) else column


def with_plain_lists(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column whose lists have no fixed size."""
    return _as(column, without_fixed_size(column.type))


def _as(column: pa.ChunkedArray | pa.Array, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    if column.type == kind:
        return column
    if isinstance(column, pa.Array):
        return _array_as(column, kind)
    return pa.chunked_array([_array_as(chunk, kind) for chunk in column.chunks], kind)


def _array_as(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if pa.types.is_fixed_size_list(array.type):
        return _plain_lists(array, kind)
    if pa.types.is_fixed_size_list(kind):
        return _fixed_size_lists(array, kind)
    if pa.types.is_list(kind):
        ends = np.cumsum(pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False))
        return pa.ListArray.from_arrays(
            pa.array(np.concatenate([[0], ends]), pa.int32()),
            _array_as(array.flatten(), kind.value_type),
            type=kind,
            mask=array.is_null(),
        )
    parts = [_array_as(array.field(place), field.type) for place, field in enumerate(kind)]
    return pa.StructArray.from_arrays(parts, fields=list(kind), mask=array.is_null())


def _plain_lists(array: pa.FixedSizeListArray, kind: pa.DataType) -> pa.ListArray:
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(valid)]) * array.type.list_size
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()),
        array.flatten(),  # of those that are not null
        type=kind,
        mask=pa.array(~valid),
    )


def _fixed_size_lists(array: pa.ListArray, kind: pa.DataType) -> pa.FixedSizeListArray:
    valid = array.is_valid()
    numbers = array.flatten().to_numpy(zero_copy_only=False)
    places = np.zeros((len(array), kind.list_size), numbers.dtype)
    places[valid.to_numpy(zero_copy_only=False)] = numbers.reshape(-1, kind.list_size)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(places.ravel(), kind.value_type), kind.list_size, mask=pc.invert(valid)
    )
