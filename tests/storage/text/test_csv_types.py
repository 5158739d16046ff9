from __future__ import annotations

import pyarrow as pa
import pytest

from airflow_mullama.storage.text.csv_types import CsvType


def type_of(*blocks: list[str | None]) -> pa.DataType:
    seen = CsvType()
    for block in blocks:
        seen.add(pa.array(block, pa.string()))
    return seen.arrow_type()


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([["1", None, "-20", "0"]], pa.int64()),
        ([["9223372036854775807"]], pa.int64()),
        ([["1"], ["2.50"], ["1e-05"]], pa.float64()),
        ([["0.30000000000000004", "0.000012345678901234567"]], pa.float64()),
        ([["true", "False"]], pa.bool_()),
        ([[None], []], pa.string()),
        ([[]], pa.string()),
        # What a number would not keep, or would make of what is none.
        ([["9223372036854775808"]], pa.string()),
        ([["1234567890123456789", "0.5"]], pa.string()),
        ([["007"]], pa.string()),
        ([["+1"]], pa.string()),
        ([[" 1"]], pa.string()),
        ([["1"], [""]], pa.string()),
        ([["1.2345678901234567890"]], pa.string()),
        ([["1e999"]], pa.string()),
        ([["NaN"]], pa.string()),
        ([["1", "true"]], pa.string()),
        ([["1"], ["true"]], pa.string()),
        ([["2026-01-31"]], pa.string()),
        ([["x"], ["1"]], pa.string()),
        ([["1\n"]], pa.string()),
    ],
)
def test_a_column_is_a_number_only_if_each_value_stays_what_it_is(
    blocks: list[list[str | None]], expected: pa.DataType
) -> None:
    assert type_of(*blocks) == expected
