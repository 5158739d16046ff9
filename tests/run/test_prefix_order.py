"""Requests of one group go to the engine one after the other, groups side by side."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.engines.pictures import read_picture
from airflow_mullama.jobs.prompts import RequestText, beginning_of
from airflow_mullama.run.prefix_order import side_by_side
from tests.made_pictures import GREEN, RED, png


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 50)), max_size=60), st.integers(1, 8))
def test_every_request_is_asked_once_and_a_group_in_its_own_order(rows, n_parallel):
    texts = [f"head document {group} {'x' * 70} {number}" for group, number in rows]
    order = side_by_side(texts, n_parallel)
    if order is None:
        return
    assert sorted(order) == list(range(len(texts)))
    for group in range(7):
        positions = [position for position in order if rows[position][0] == group]
        assert positions == sorted(positions)


def test_the_groups_of_a_sorted_table_are_laid_side_by_side():
    texts = [f"Answer: {'doc' * 30} {group} {'x' * 64} {number}" for group in "abcd" for number in range(3)]
    assert side_by_side(texts, 2) == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert side_by_side(texts, 4) == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]


def test_where_nothing_or_all_is_shared_the_order_stays():
    assert side_by_side([f"Tag this ticket: {number}" for number in range(100)], 16) is None
    assert side_by_side(["the same beginning " + "y" * 64] * 5, 16) is None
    assert side_by_side(["a" * 80 + "1", "a" * 80 + "2", "b"], 1) is None
    assert side_by_side([], 16) is None


def test_rows_with_the_same_picture_are_a_group() -> None:
    first, second = (read_picture(png(colour)) for colour in (RED, GREEN))
    texts = [
        RequestText(f"What is it? {number}", (12, 13), None, (one,))
        for number, one in enumerate([first] * 3 + [second] * 3)
    ]
    assert side_by_side(list(map(beginning_of, texts)), 2) == [0, 3, 1, 4, 2, 5]
    assert side_by_side(list(map(beginning_of, texts[:3])), 2) is None
