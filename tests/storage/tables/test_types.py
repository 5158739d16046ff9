"""The types of tables, and values that would change."""

from __future__ import annotations

import pyarrow as pa
import pytest

from airflow_mullama.errors import UnsupportedColumnError
from airflow_mullama.storage.iceberg.columns import ICEBERG_TYPES
from airflow_mullama.storage.tables.types import TableTypes, from_table, same_type, to_table

DELTA = TableTypes("Delta Lake")


@pytest.mark.parametrize("dtype", [pa.float16(), pa.float32()])
def test_vectors_come_back_as_they_went_inside_of_other_columns_too(dtype: pa.DataType) -> None:
    vector = pa.list_(dtype, 2)
    plain = pa.chunked_array([pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)).cast(vector)])
    nested = pa.array([[{"at": 1, "vector": [1.0, 2.0]}, {"at": 2, "vector": None}], None])
    chunks = pa.chunked_array([nested]).cast(
        pa.list_(pa.struct([("at", pa.int32()), ("vector", pa.list_(pa.float32()))]))
    )
    for types in (DELTA, ICEBERG_TYPES):
        for column in (plain, chunks):
            stored = to_table(column, types.of("v", column.type), "v")
            assert stored.type == types.of("v", column.type)
            assert from_table(stored, column.type).to_pylist() == column.to_pylist()


def test_smaller_types_become_those_of_the_format() -> None:
    assert (DELTA.of("n", pa.int8()), ICEBERG_TYPES.of("n", pa.int8())) == (pa.int8(), pa.int32())
    assert ICEBERG_TYPES.of("n", pa.uint8()) == pa.int32()
    assert ICEBERG_TYPES.of("t", pa.time32("s")) == pa.time64("us")
    assert same_type(pa.list_(pa.field("item", pa.int32(), False)), pa.list_(pa.field("element", pa.int32())))
    assert not same_type(pa.struct([("a", pa.int32())]), pa.struct([("b", pa.int32())]))


@pytest.mark.parametrize("kind", [pa.duration("s"), pa.null(), pa.time64("us"), pa.decimal256(40, 2)])
def test_a_type_without_an_equivalent_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(UnsupportedColumnError, match="which tables of Delta Lake do not have"):
        DELTA.of("x", kind)


def test_a_value_that_would_change_is_refused() -> None:
    column = pa.chunked_array([pa.array([2**63], pa.uint64())])
    with pytest.raises(UnsupportedColumnError, match="'n' is of the type uint64 and has a value"):
        to_table(column, DELTA.of("n", column.type), "n")
