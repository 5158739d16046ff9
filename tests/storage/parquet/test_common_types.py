from __future__ import annotations

import pyarrow as pa
import pytest

from airflow_mullama.storage.parquet.common_types import (
    FIELD_ID,
    NoCommonTypeError,
    common_field,
    common_type,
    without_used_id,
)


def struct(**fields: pa.DataType) -> pa.DataType:
    return pa.struct(list(fields.items()))


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (pa.null(), pa.int8(), pa.int8()),
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.uint32(), pa.uint32()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.uint16(), pa.int64(), pa.int64()),
        (pa.uint32(), pa.int8(), pa.int64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.int16(), pa.float32(), pa.float32()),
        (pa.int32(), pa.float32(), pa.float64()),
        (pa.uint8(), pa.float16(), pa.float16()),
        (pa.decimal128(5, 2), pa.decimal128(6, 3), pa.decimal128(6, 3)),
        (pa.decimal128(10, 0), pa.decimal128(6, 4), pa.decimal128(14, 4)),
        (pa.decimal128(30, 0), pa.decimal256(40, 20), pa.decimal256(50, 20)),
        (pa.int32(), pa.decimal128(5, 2), pa.decimal128(12, 2)),
        (pa.uint64(), pa.decimal128(5, 2), pa.decimal128(22, 2)),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.string(), pa.string_view(), pa.string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), pa.string()),
        (pa.dictionary(pa.int8(), pa.string(), True), pa.null(), pa.dictionary(pa.int8(), pa.string(), True)),
        (
            pa.dictionary(pa.int32(), pa.string(), True),
            pa.dictionary(pa.int64(), pa.large_string()),
            pa.dictionary(pa.int64(), pa.large_string()),
        ),
        (pa.binary(), pa.large_binary(), pa.large_binary()),
        (pa.binary(3), pa.binary(4), pa.binary()),
        (pa.date32(), pa.date64(), pa.date64()),
        (pa.time32("ms"), pa.time64("us"), pa.time64("us")),
        (pa.timestamp("ms"), pa.timestamp("ns"), pa.timestamp("ns")),
        (pa.timestamp("ms", "UTC"), pa.timestamp("us", "+00:00"), pa.timestamp("us", "UTC")),
        (pa.duration("s"), pa.duration("ms"), pa.duration("ms")),
        (pa.list_(pa.int8()), pa.list_(pa.int16()), pa.list_(pa.int16())),
        (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
        (pa.list_(pa.int8()), pa.large_list(pa.int8()), pa.large_list(pa.int8())),
        (pa.list_(pa.int8(), 2), pa.list_(pa.int64(), 2), pa.list_(pa.int64(), 2)),
        (pa.list_(pa.int8(), 2), pa.list_(pa.int8(), 3), pa.list_(pa.int8())),
        (struct(a=pa.int8(), b=pa.date32()), struct(a=pa.int64()), struct(a=pa.int64(), b=pa.date32())),
        (struct(a=pa.int8()), struct(b=pa.date32(), a=pa.int64()), struct(a=pa.int64(), b=pa.date32())),
        (
            pa.map_(pa.string(), struct(a=pa.int8())),
            pa.map_(pa.large_string(), struct(a=pa.int16())),
            pa.map_(pa.large_string(), struct(a=pa.int16())),
        ),
    ],
)
def test_what_holds_both(one: pa.DataType, other: pa.DataType, common: pa.DataType) -> None:
    assert common_type(one, other) == common
    both = common_type(other, one)
    # The order of fields is the first's, and so is the name of a zone.
    assert both == common or pa.types.is_struct(common) or (pa.types.is_timestamp(common) and common.tz)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.int64(), pa.string()),
        (pa.int64(), pa.bool_()),
        (pa.int64(), pa.float64()),
        (pa.int64(), pa.uint64()),
        (pa.decimal128(5, 2), pa.float64()),
        (pa.decimal128(38, 0), pa.decimal128(38, 2)),
        (pa.decimal256(76, 0), pa.decimal128(38, 2)),
        (pa.int64(), pa.decimal128(38, 20)),
        (pa.string(), pa.binary()),
        (pa.dictionary(pa.int8(), pa.string()), pa.int8()),
        (pa.date32(), pa.timestamp("us")),
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Berlin")),
        (pa.time64("us"), pa.timestamp("us")),
        (pa.list_(pa.int8()), pa.int8()),
        (pa.list_(pa.int8()), pa.map_(pa.int8(), pa.int8())),
        (pa.struct([("a", pa.int8()), ("a", pa.int8())]), struct(a=pa.int8())),
    ],
)
def test_what_nothing_holds_without_loss(one: pa.DataType, other: pa.DataType) -> None:
    for pair in ((one, other), (other, one)):
        with pytest.raises(NoCommonTypeError):
            common_type(*pair)


def test_a_contradiction_says_where_it_lies() -> None:
    one = pa.field("a", pa.list_(struct(b=pa.int8(), c=pa.map_(pa.string(), pa.int8()))))
    other = pa.field("a", pa.list_(struct(b=pa.int8(), c=pa.map_(pa.string(), pa.string()))))
    with pytest.raises(NoCommonTypeError) as caught:
        common_field(one, other)
    assert caught.value.path == ("a", "[]", "c", "value")


def test_what_may_be_null_in_one_may_be_in_both() -> None:
    required, optional = pa.field("a", pa.int8(), nullable=False), pa.field("a", pa.int64())
    assert common_field(required, required) == required
    assert common_field(required, optional) == optional
    inner = common_type(pa.struct([required]), pa.struct([optional]))
    assert inner == pa.struct([optional])
    assert common_type(struct(b=pa.int8()), pa.struct([required])).field("a").nullable


def test_a_number_of_the_schema_is_given_once() -> None:
    field = pa.field("b", pa.int8(), metadata={FIELD_ID: b"2", b"note": b"x"})
    assert without_used_id(field, [pa.field("a", pa.int8(), metadata={FIELD_ID: b"1"})]).metadata == field.metadata
    other = pa.field("a", pa.int8(), metadata={FIELD_ID: b"2"})
    assert without_used_id(field, [other]).metadata == {b"note": b"x"}
