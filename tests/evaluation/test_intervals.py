from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.evaluation.intervals import SMALL_SAMPLE, mcnemar, mean, of_counts, share


def test_wilsons_interval_is_that_of_the_textbook():
    figure = share(9, 10)  # Newcombe (1998), table I has 0.5958 to 0.9821 for 9 of 10

    assert (figure.value, round(figure.low, 4), round(figure.high, 4)) == (0.9, 0.5958, 0.9821)


@given(rows=st.integers(1, 10_000), part=st.floats(0, 1))
def test_a_share_lies_in_its_interval_and_that_in_zero_to_one(rows: int, part: float):
    figure = share(round(part * rows), rows)

    assert 0 <= figure.low <= figure.value <= figure.high <= 1


def test_no_rows_have_no_figure():
    assert share(0, 0).value is None
    assert mean([]).value is None
    assert of_counts({}, lambda counts: 1.0).value is None
    assert str(share(0, 0)) == "–"


@pytest.mark.parametrize("count", [50, 20_000])
def test_the_interval_of_a_mean_covers_it_about_as_often_as_it_says(count: int):
    generator = np.random.default_rng(1)

    covered = sum(
        figure.low <= 3.0 <= figure.high
        for figure in (mean(generator.normal(3.0, 2.0, count)) for _ in range(100 if count < 1000 else 40))
    )

    assert covered >= (85 if count < 1000 else 33)


def test_few_rows_are_said_to_be_few():
    assert share(1, SMALL_SAMPLE - 1).is_of_few
    assert not share(1, SMALL_SAMPLE).is_of_few


@given(only_first=st.integers(0, 60), only_second=st.integers(0, 60))
def test_mcnemars_test_is_the_exact_binomial_one(only_first: int, only_second: int):
    rows, fewer = only_first + only_second, min(only_first, only_second)
    exact = min(1.0, 2 * sum(math.comb(rows, k) for k in range(fewer + 1)) / 2**rows)

    assert mcnemar(only_first, only_second) == pytest.approx(exact)


def test_a_large_difference_is_no_chance_and_does_not_overflow():
    assert mcnemar(100_000, 90_000) < 1e-100
    assert mcnemar(5000, 5000) == 1.0
