from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama.storage.text.json_types import ContradictionError, FieldCount, JsonType, Line


def type_of(*values: Any, most: int = 100) -> pa.DataType:
    seen = JsonType(FieldCount(most))
    for line, value in enumerate(values, 1):
        seen.add(value, Line(line))
    return seen.arrow_type()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, None, -5], pa.int64()),
        ([2**63 - 1, -(2**63)], pa.int64()),
        ([1, 1.5], pa.float64()),
        ([1.5, 2**53], pa.float64()),
        ([True, False], pa.bool_()),
        (["2026-01-31", "x"], pa.string()),
        (["2026-01-31T10:00:00Z"], pa.string()),
        ([None], pa.string()),
        ([[], [1], [None, 2.5]], pa.list_(pa.field("element", pa.float64()))),
        ([[]], pa.list_(pa.field("element", pa.string()))),
        ([{"a": 1}, {"b": {"c": "x"}}], pa.struct([("a", pa.int64()), ("b", pa.struct([("c", pa.string())]))])),
    ],
)
def test_the_type_holds_every_value_as_it_is(values: list[Any], expected: pa.DataType) -> None:
    found = type_of(*values)
    assert found == expected
    assert pa.array(values, found).type == expected


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([1, "x"], "column 'a' holds an integer in line 1 and a string in line 2"),
        ([True, 1], "column 'a' holds a boolean in line 1 and an integer in line 2"),
        ([[1], ["x"]], "column 'a.[]' holds an integer in line 1 and a string in line 2"),
        ([{"b": 1}, {"b": {}}], "column 'a.b' holds an integer in line 1 and an object in line 2"),
        ([2**63], "column 'a' holds an integer of more than 64 bits in line 1; write it as a string"),
        ([2**60, 0.5], "column 'a' holds fractions, and in line 1 an integer with more digits than float64 keeps"),
        ([0.5, 2**60], "column 'a' holds fractions, and in line 2 an integer with more digits than float64 keeps"),
        ([{}], "column 'a' holds only empty objects, which Parquet has no type for"),
    ],
)
def test_a_column_that_no_type_holds_is_named_with_its_lines(values: list[Any], sentence: str) -> None:
    with pytest.raises(ContradictionError) as caught:
        type_of(*({"a": value} for value in values))
    assert caught.value.sentence().startswith(sentence)


def test_names_that_vary_without_end_are_no_table() -> None:
    with pytest.raises(ContradictionError, match="more than 3 columns and fields"):
        type_of({"a": {"b": 1}}, {"a": {"c": 1}}, {"a": {"d": 1}}, most=3)
