"""A thread takes the request that shares most with its last one, if that gains something."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.engines.base import Request
from airflow_mullama.worker.affinity import LEAST_GAIN_TOKENS, best_fit


def requests(*tokens: list[int]) -> list[Request]:
    return [Request(row, 1, "", tokens=list(one)) for row, one in enumerate(tokens)]


def shared(tokens: list[int], other: list[int]) -> int:
    count = 0
    while count < min(len(tokens), len(other)) and tokens[count] == other[count]:
        count += 1
    return count


def test_the_longest_agreement_wins():
    last = list(range(100))
    prepared = requests([9] * 50, [*last[:40], 0], [*last[:90], 0], [*last[:60], 0])
    assert best_fit(prepared, last) == 2


def test_a_small_gain_is_not_worth_leaving_the_order():
    last = list(range(100))
    assert best_fit(requests([*last[:50], 0], [*last[: 50 + LEAST_GAIN_TOKENS - 1], 0]), last) == 0
    assert best_fit(requests([*last[:50], 0], [*last[: 50 + LEAST_GAIN_TOKENS], 0]), last) == 1


def test_requests_without_tokens_keep_their_order():
    assert best_fit([Request(0, 1, "a"), Request(1, 1, "b")], [1, 2, 3]) == 0


@given(st.lists(st.lists(st.integers(0, 1), max_size=60), min_size=1, max_size=8), st.lists(st.integers(0, 1)))
def test_nothing_fits_better_than_what_is_taken(prepared, last):
    taken = best_fit(requests(*prepared), last)
    best = max(shared(tokens, last) for tokens in prepared)
    assert shared(prepared[taken], last) > best - LEAST_GAIN_TOKENS
    assert taken == 0 or shared(prepared[taken], last) == best
