"""Dictionary columns that several files share: an index wide enough for all their values together.

A categorical of pandas has an index of one byte where a file has few values. Each row group has a dictionary of its
own, and a reader of the whole makes one of them all; beyond 128 values one byte does not do, and it refuses the file.
So the narrow ones are widened; a reader that does not know Arrow's schema sees no difference.
"""

from __future__ import annotations

import pyarrow as pa

WIDE_INDEX = pa.int32()


def with_wide_index(kind: pa.DataType) -> pa.DataType:
    """A type with every dictionary's index at least 32 bits wide, at any depth."""
    if pa.types.is_dictionary(kind):
        index = kind.index_type if kind.index_type.bit_width >= WIDE_INDEX.bit_width else WIDE_INDEX
        return pa.dictionary(index, kind.value_type, kind.ordered)
    if pa.types.is_map(kind):
        # Map before list: it is one of structs.
        return pa.map_(_wide_field(kind.key_field), _wide_field(kind.item_field), kind.keys_sorted)
    if pa.types.is_struct(kind):
        return pa.struct([_wide_field(field) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_wide_field(kind.value_field), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_wide_field(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(_wide_field(kind.value_field))
    return kind


def wide_schema(schema: pa.Schema) -> pa.Schema:
    """A schema with :func:`with_wide_index` of each column, and all else as it is."""
    return pa.schema([_wide_field(field) for field in schema], metadata=schema.metadata)


def _wide_field(field: pa.Field) -> pa.Field:
    kind = with_wide_index(field.type)
    return field if kind == field.type else field.with_type(kind)
