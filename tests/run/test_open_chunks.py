from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.run.open_chunks import LEAST_SLICED_ROWS, by_chunk, in_order, rows_of

SCHEMA = pa.schema([("row", pa.int64()), ("value", pa.float64())])


def outcomes(rows: list[int] | range) -> pa.Table:
    numbers = np.array(rows, np.int64)
    return pa.table({"row": numbers, "value": numbers / 2}, schema=SCHEMA)


def addresses(table: pa.Table) -> set[int]:
    return {chunk.buffers()[1].address for chunk in table.column("value").chunks}


@given(st.lists(st.integers(0, 999), unique=True, max_size=300), st.sampled_from([1, 7, 100, 1000]))
def test_each_row_goes_to_its_chunk_once_whatever_their_order(rows: list[int], chunk_rows: int) -> None:
    gathered: dict[int, list[pa.Table]] = {}
    for number, part in by_chunk(outcomes(rows), chunk_rows):
        gathered.setdefault(number, []).append(part)
    found: list[int] = []
    for number in sorted(gathered):
        table = in_order(gathered[number], SCHEMA)
        assert set(rows_of(table) // chunk_rows) == {number}
        assert table.column("value").to_pylist() == [row / 2 for row in table.column("row").to_pylist()]
        found += rows_of(table).tolist()
    assert found == sorted(rows)


def test_rows_that_follow_each_other_stay_where_they_are() -> None:
    later, earlier = outcomes(range(900, 1100)), outcomes(range(500, 900))
    parts = [*by_chunk(later, 1000), *by_chunk(earlier, 1000)]
    assert [(number, part.num_rows) for number, part in parts] == [(0, 100), (1, 100), (0, 400)]
    chunk = in_order([part for number, part in parts if number == 0], SCHEMA)
    assert rows_of(chunk).tolist() == list(range(500, 1000))
    assert addresses(chunk) == addresses(later) | addresses(earlier)


@pytest.mark.parametrize("rows", [[3, 1, 2], list(range(LEAST_SLICED_ROWS - 1))])
def test_few_rows_are_put_together(rows: list[int]) -> None:
    chunk = in_order([outcomes([row]) for row in rows], SCHEMA)
    assert rows_of(chunk).tolist() == sorted(rows)
    assert chunk.column("value").num_chunks == 1


def test_nothing_is_in_order() -> None:
    assert in_order([], SCHEMA).num_rows == 0
