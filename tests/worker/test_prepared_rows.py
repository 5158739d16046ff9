"""Which rows a thread takes next."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.engines.base import Request
from airflow_mullama.worker.prepared_rows import PreparedRows


def engine(rows_per_call: int, tokens_per_call: int | None, *, pads_rows: bool = True, calls: int = 1) -> Any:
    info = SimpleNamespace(calls=calls, tokens_per_call=tokens_per_call, pads_rows=pads_rows)
    return SimpleNamespace(rows_per_call=rows_per_call, info=info)


def of_lengths(lengths: Sequence[int], first: int = 0) -> list[Request]:
    return [Request(first + place, 1, "", tokens=[0] * length) for place, length in enumerate(lengths)]


def lengths_of(requests: Sequence[Request]) -> list[int]:
    return [len(request.tokens or ()) for request in requests]


def test_rows_that_are_padded_are_taken_by_length() -> None:
    rows = PreparedRows()
    rows.extend(of_lengths([3, 90, 5, 88, 4]))
    assert lengths_of(rows.take(engine(8, 200), [])) == [90, 88]
    assert lengths_of(rows.take(engine(2, 200), [])) == [5, 4]
    assert len(rows) == 1


def test_rows_that_arrive_later_do_not_keep_earlier_ones_waiting() -> None:
    rows = PreparedRows()
    rows.extend(of_lengths([9, 1]))
    assert lengths_of(rows.take(engine(1 << 10, 9), [])) == [9]
    rows.extend(of_lengths([7, 8], first=2))
    assert lengths_of(rows.take(engine(1 << 10, 9), [])) == [1]
    assert lengths_of(rows.take(engine(1 << 10, 16), [])) == [8, 7]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(2, 9), st.integers(1, 100))
def test_each_row_is_taken_once_and_padded_within_the_budget(lengths: list[int], most: int, tokens: int) -> None:
    rows = PreparedRows()
    rows.extend(of_lengths(lengths))
    taken: list[int] = []
    while len(rows):
        batch = rows.take(engine(most, tokens), [])
        assert 1 <= len(batch) <= most
        assert len(batch) == 1 or len(batch) * max(lengths_of(batch)) <= tokens
        taken += [request.row for request in batch]
    assert sorted(taken) == list(range(len(lengths)))


def test_threads_share_rows_that_are_not_padded() -> None:
    rows = PreparedRows()
    rows.extend(of_lengths([5] * 8))
    assert [request.row for request in rows.take(engine(8, None, pads_rows=False, calls=2), [])] == [0, 1, 2, 3]
    assert len(rows.take(engine(8, 11, pads_rows=False), [])) == 2
