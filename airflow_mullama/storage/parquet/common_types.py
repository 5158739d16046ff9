"""The type that holds the values of two others without loss, and arrays as such a type.

What one writer calls ``int32``, ``large_string`` or a timestamp in milliseconds, its successor calls ``int64``,
``string`` or one in microseconds. Where every value of both is one of a third type, that is their common type; where
that would cost digits, or a meaning, there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
from pyarrow import types

_UNITS = ("s", "ms", "us", "ns")
_SIGNED = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
_UNSIGNED = {8: pa.uint8(), 16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}
_FLOATS = {16: pa.float16(), 32: pa.float32(), 64: pa.float64()}
# Integers of so many bits are all among the floats of a width.
_WHOLE_BITS = {16: 11, 32: 24, 64: 53}
# Decimal digits of the largest integer of a width; of uint64 one more.
_DIGITS = {8: 3, 16: 5, 32: 10, 64: 19}
_UTC = frozenset({"UTC", "Etc/UTC", "Z", "+00:00"})
FIELD_ID = b"PARQUET:field_id"


class NoCommonTypeError(Exception):
    """Two types of which no third one holds all values.

    Args:
        path: where inside of a column: names of fields, ``[]`` for a list's elements.
    """

    def __init__(self, *path: str) -> None:
        super().__init__(".".join(path))
        self.path = path


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The narrowest type that holds every value of both; where they only differ in names, the first's.

    Raises:
        NoCommonTypeError: there is none.
    """
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if types.is_dictionary(one) or types.is_dictionary(other):
        return _common_dictionary(one, other)
    if types.is_nested(one) or types.is_nested(other):
        return _common_nested(one, other)
    for is_kind, common in (
        (types.is_temporal, _common_temporal),
        (_is_number, _common_number),
        (_is_text, _common_text),
        (_is_bytes, _common_bytes),
    ):
        if is_kind(one) and is_kind(other):
            return common(one, other)
    raise NoCommonTypeError


def common_field(one: pa.Field, other: pa.Field) -> pa.Field:
    """The first with the common type of both, null where either may be null.

    Raises:
        NoCommonTypeError: there is none.
    """
    try:
        kind = common_type(one.type, other.type)
    except NoCommonTypeError as error:
        raise NoCommonTypeError(one.name, *error.path) from None
    nullable = one.nullable or other.nullable or types.is_null(one.type) or types.is_null(other.type)
    return one.with_type(kind).with_nullable(nullable)


def without_used_id(field: pa.Field, used: Sequence[pa.Field]) -> pa.Field:
    """A field without its number of Parquet's schema, where one of the others has the same."""
    number = (field.metadata or {}).get(FIELD_ID)
    if number is None or all((other.metadata or {}).get(FIELD_ID) != number for other in used):
        return field
    return field.with_metadata({key: value for key, value in field.metadata.items() if key != FIELD_ID} or None)


# --- values without parts ---------------------------------------------------------------------------------------------


def _is_number(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    ) and not types.is_decimal(kind)


def _common_number(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if types.is_decimal(one) or types.is_decimal(other):
        return _common_decimal(one, other)
    if types.is_floating(one) and types.is_floating(other):
        return _FLOATS[max(one.bit_width, other.bit_width)]
    if types.is_floating(one) or types.is_floating(other):
        number, whole = (one, other) if types.is_floating(one) else (other, one)
        for width in sorted(_FLOATS):
            if width >= number.bit_width and whole.bit_width <= _WHOLE_BITS[width]:
                return _FLOATS[width]
        raise NoCommonTypeError
    width = max(one.bit_width, other.bit_width)
    if types.is_signed_integer(one) == types.is_signed_integer(other):
        return (_SIGNED if types.is_signed_integer(one) else _UNSIGNED)[width]
    unsigned, signed = (other, one) if types.is_signed_integer(one) else (one, other)
    width = max(signed.bit_width, 2 * unsigned.bit_width)
    if width not in _SIGNED:
        raise NoCommonTypeError
    return _SIGNED[width]


def _common_decimal(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if types.is_floating(one) or types.is_floating(other):
        raise NoCommonTypeError
    (before, after), (before_too, after_too) = map(_places, (one, other))
    after = max(after, after_too)
    digits = max(before, before_too) + after
    if any(types.is_decimal256(kind) for kind in (one, other)):
        if digits <= 76:
            return pa.decimal256(digits, after)
    elif digits <= 38:
        return pa.decimal128(digits, after)
    raise NoCommonTypeError


def _places(kind: pa.DataType) -> tuple[int, int]:
    """Digits before and after the point."""
    if types.is_decimal(kind):
        return kind.precision - kind.scale, kind.scale
    return _DIGITS[kind.bit_width] + (kind == pa.uint64()), 0


def _common_text(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    return pa.large_string() if types.is_large_string(one) or types.is_large_string(other) else pa.string()


def _common_bytes(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    return pa.large_binary() if types.is_large_binary(one) or types.is_large_binary(other) else pa.binary()


def _common_temporal(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if types.is_date(one) and types.is_date(other):
        return pa.date64()
    if types.is_time(one) and types.is_time(other):
        unit = max(one.unit, other.unit, key=_UNITS.index)
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    if types.is_duration(one) and types.is_duration(other):
        return pa.duration(max(one.unit, other.unit, key=_UNITS.index))
    if types.is_timestamp(one) and types.is_timestamp(other) and (one.tz == other.tz or {one.tz, other.tz} <= _UTC):
        return pa.timestamp(max(one.unit, other.unit, key=_UNITS.index), one.tz)
    raise NoCommonTypeError


# --- what holds other values ------------------------------------------------------------------------------------------


def _common_dictionary(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if not (types.is_dictionary(one) and types.is_dictionary(other)):
        return common_type(*(kind.value_type if types.is_dictionary(kind) else kind for kind in (one, other)))
    index = common_type(one.index_type, other.index_type)
    return pa.dictionary(index, common_type(one.value_type, other.value_type), one.ordered and other.ordered)


def _is_any_list(kind: pa.DataType) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _common_nested(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if types.is_struct(one) and types.is_struct(other):
        return pa.struct(_common_struct(one, other))
    if types.is_map(one) and types.is_map(other):
        key = common_field(one.key_field, other.key_field).with_nullable(False)
        return pa.map_(key, common_field(one.item_field, other.item_field), one.keys_sorted and other.keys_sorted)
    if not (_is_any_list(one) and _is_any_list(other)):
        raise NoCommonTypeError
    try:
        element = common_field(one.value_field, other.value_field)
    except NoCommonTypeError as error:
        raise NoCommonTypeError("[]", *error.path[1:]) from None
    if types.is_large_list(one) or types.is_large_list(other):
        return pa.large_list(element)
    if types.is_fixed_size_list(one) and types.is_fixed_size_list(other) and one.list_size == other.list_size:
        return pa.list_(element, one.list_size)
    return pa.list_(element)


def _common_struct(one: pa.StructType, other: pa.StructType) -> list[pa.Field]:
    for kind in (one, other):
        repeated = [name for name, count in Counter(field.name for field in kind).items() if count > 1]
        if repeated:  # which of them is which?
            raise NoCommonTypeError(repeated[0])
    ours, theirs = ({field.name: field for field in kind} for kind in (one, other))
    fields = [
        common_field(field, theirs[name]) if name in theirs else field.with_nullable(True)
        for name, field in ours.items()
    ]
    for name, field in theirs.items():
        if name not in ours:
            fields.append(without_used_id(field.with_nullable(True), fields))
    return fields
