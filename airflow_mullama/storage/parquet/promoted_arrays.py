"""Arrays of one type as arrays of another that holds all their values.

Arrow's own cast stops at structs with other fields, at maps and at some dictionaries inside of them; so what has parts
is taken apart here, and Arrow casts what has none.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyarrow import types


def promoted(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values as another type.

    Args:
        array: of any type.
        kind: what :func:`airflow_mullama.storage.parquet.common_types.common_type` found for it and others.

    Raises:
        pyarrow.ArrowInvalid: it does not hold a value; this may be of timestamps and durations, in a finer unit.
    """
    if array.type == kind:
        return array
    if types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if types.is_dictionary(array.type):
        if not types.is_dictionary(kind):
            return promoted(array.dictionary_decode(), kind)
        indices = array.indices.cast(kind.index_type)
        values = promoted(array.dictionary, kind.value_type)
        return pa.DictionaryArray.from_arrays(indices, values, ordered=kind.ordered)
    if types.is_struct(kind):
        return _struct(array, kind)
    if types.is_map(kind):
        return _map(array, kind)
    if types.is_fixed_size_list(kind):
        values = promoted(_values_of_fixed(array), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=array.is_null())
    if types.is_list(kind) or types.is_large_list(kind):
        return _list(array, kind)
    return array.cast(kind)


def _struct(array: pa.StructArray, kind: pa.StructType) -> pa.StructArray:
    there = {array.type.field(place).name: place for place in range(array.type.num_fields)}
    fields = [kind.field(place) for place in range(kind.num_fields)]
    children = [
        promoted(array.field(there[field.name]), field.type)
        if field.name in there
        else pa.nulls(len(array), field.type)
        for field in fields
    ]
    return pa.StructArray.from_arrays(children, fields=fields, mask=array.is_null())


def _offsets(array: pa.Array) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], int, int]:
    """Where each list begins among the values from the first one on; and where those begin and end."""
    offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    start, stop = int(offsets[0]), int(offsets[-1])
    return offsets - start, start, stop


def _list(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if types.is_fixed_size_list(array.type):
        values = _values_of_fixed(array)
        offsets = np.arange(len(array) + 1, dtype=np.int64) * array.type.list_size
    else:
        offsets, start, stop = _offsets(array)
        values = array.values.slice(start, stop - start)
    made, width = (pa.LargeListArray, pa.int64()) if types.is_large_list(kind) else (pa.ListArray, pa.int32())
    return made.from_arrays(
        pa.array(offsets, width), promoted(values, kind.value_type), type=kind, mask=array.is_null()
    )


def _values_of_fixed(array: pa.FixedSizeListArray) -> pa.Array:
    size = array.type.list_size
    return array.values.slice(array.offset * size, len(array) * size)


def _map(array: pa.MapArray, kind: pa.MapType) -> pa.MapArray:
    offsets, start, stop = _offsets(array)
    keys, items = (part.slice(start, stop - start) for part in (array.keys, array.items))
    return pa.MapArray.from_arrays(
        pa.array(offsets, pa.int32()),
        promoted(keys, kind.key_type),
        promoted(items, kind.item_type),
        type=kind,
        mask=array.is_null(),
    )
