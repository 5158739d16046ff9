from __future__ import annotations

import re

import pyarrow as pa
import pytest

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.parquet.unified_schema import UnifiedSchema, column_keys, unify


def unified(*schemas: pa.Schema, schema_drift: str = "promote") -> UnifiedSchema:
    files = [(local_location(f"/lake/{number}.parquet"), schema) for number, schema in enumerate(schemas)]
    return unify(files, schema_drift)  # type: ignore[arg-type]


def test_files_of_one_schema_are_read_as_they_are() -> None:
    schema = pa.schema([("a", pa.int8())], metadata={b"note": b"x"})
    assert unified(schema, schema.with_metadata({b"note": b"y"})) == UnifiedSchema(schema.remove_metadata())


def test_the_first_file_says_the_order_and_later_columns_follow() -> None:
    found = unified(
        pa.schema([pa.field("b", pa.int32(), nullable=False), ("a", pa.string())]),
        pa.schema([("c", pa.bool_()), ("a", pa.large_string()), ("b", pa.int64())]),
        pa.schema([("d", pa.null()), ("b", pa.null())]),
        pa.schema([("d", pa.null()), ("b", pa.null())]),
    )
    assert found.schema == pa.schema([("b", pa.int64()), ("a", pa.large_string()), ("c", pa.bool_()), ("d", pa.null())])
    assert found.differences == (
        "'b' is read as int64, and some have int32 or null",
        "'a' is read as large_string, and some have string",
        "'a' is null where it is absent, in 2 of 4 files",
        "'c' is null where it is absent, in 3 of 4 files",
        "'d' is null where it is absent, in 2 of 4 files",
    )


def test_order_and_nullability_alone_are_told_too() -> None:
    ab = pa.schema([("a", pa.int8()), ("b", pa.int8())])
    assert unified(ab, pa.schema(list(reversed(ab)))).differences == ("the order of columns is that of '0.parquet'",)
    required = pa.schema([pa.field("a", pa.int8(), nullable=False), ab.field("b")])
    assert unified(required, ab).differences == ("'a' may be null",)


def test_what_is_told_is_short() -> None:
    many = pa.schema([(f"c{number}", pa.int8()) for number in range(50)])
    assert unified(pa.schema([("a", pa.int8())]), many).differences[-1] == "and 41 more"


@pytest.mark.parametrize(
    ("schemas", "sentence"),
    [
        (
            [{"a": pa.int8()}, {"a": pa.int64()}, {"a": pa.string()}],
            "'0.parquet' and '2.parquet' of the partition '/lake' contradict each other: column 'a' is int8 in one",
        ),
        (
            [{"a": pa.float32()}, {"a": pa.int32()}, {"a": pa.int64()}],
            "'0.parquet' and '2.parquet' of the partition '/lake' contradict each other: column 'a' is float in one",
        ),
        (
            [{"a": pa.struct([("b", pa.bool_())])}, {"a": pa.struct([("b", pa.int8())])}],
            "column 'a' is struct<b: bool> in one and struct<b: int8> in the other (at 'a.b')",
        ),
    ],
)
def test_a_contradiction_names_files_column_and_types(schemas: list[dict[str, pa.DataType]], sentence: str) -> None:
    with pytest.raises(InputUnreadableError, match=re.escape(sentence)):
        unified(*map(pa.schema, schemas))


@pytest.mark.parametrize(
    ("other", "detail"),
    [
        ({"a": pa.int64()}, "column 'a' is int8 in one and int64 in the other"),
        ({"a": pa.int8(), "b": pa.int8()}, "column 'b' is absent in one and int8 in the other"),
    ],
)
def test_files_that_differ_are_refused_on_demand(other: dict[str, pa.DataType], detail: str) -> None:
    with pytest.raises(InputUnreadableError, match=rf"{detail}.*schema_drift='refuse'"):
        unified(pa.schema({"a": pa.int8()}), pa.schema(other), schema_drift="refuse")


class ComparedName(str):
    """A column's name that counts how often it is compared or hashed."""

    asked = 0

    def __eq__(self, other: object) -> bool:
        ComparedName.asked += 1
        return str.__eq__(self, other)  # type: ignore[arg-type]

    def __hash__(self) -> int:
        ComparedName.asked += 1
        return str.__hash__(self)


@pytest.mark.parametrize("columns", [100, 10_000])
def test_telling_columns_apart_takes_a_few_steps_for_each(columns: int) -> None:
    ComparedName.asked = 0
    assert len(column_keys([ComparedName(f"column {number}") for number in range(columns)])) == columns
    assert 0 < ComparedName.asked <= 10 * columns
