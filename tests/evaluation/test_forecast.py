from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_mullama.evaluation.forecast import Forecast, Pace, forecast
from airflow_mullama.evaluation.intervals import Figure
from airflow_mullama.evaluation.outputs import open_output
from airflow_mullama.progress import Snapshot


def done(rows: int) -> Snapshot:
    return Snapshot(rows, 1000, 0, 0.0, 0.0, None, "in.parquet")


def test_the_pace_is_that_of_the_full_engine():
    now = 0.0
    pace = Pace(lambda: now)
    for rows in range(0, 1001, 10):
        # The first and the last rows come slowly: then the engine is not full.
        now += 1.0 if 100 < rows <= 900 else 9.0
        pace.advance(done(rows))

    blocks = pace.seconds_per_row()

    assert len(blocks) == 10
    assert all(seconds == pytest.approx(0.1) for seconds in blocks)


def test_rows_that_come_all_at_once_have_no_pace():
    pace = Pace(lambda: 1.0)
    pace.advance(done(1000))
    pace.advance(done(1000))

    assert pace.seconds_per_row() == []


@pytest.mark.parametrize(
    ("max_seconds", "max_tokens_total", "rows"),
    [(None, None, None), (10.0, None, 100), (10.0, 9_000, 100), (None, 1_500, 50), (1e9, 10**9, 1000)],
)
def test_a_budget_pays_for_rows_until_the_first_of_its_limits(
    max_seconds: float | None, max_tokens_total: int | None, rows: int | None
):
    def figure(value: float) -> Figure:
        return Figure(value, value, value, 10)

    told = Forecast(1000, 10, figure(20_000), figure(10_000), figure(100.0), 1.0, figure(0.0))

    found = told.with_budget(max_seconds, max_tokens_total)

    assert found.within_budget == rows
    assert found.to_json().get("rows_within_budget") == rows


def test_a_sample_that_came_back_at_once_gives_no_interval_of_its_time(answered: Callable[..., Path]):
    files = open_output(answered({"answer": ["a"] * 20}))
    paced = Pace(marks=[(float(second), 2 * second) for second in range(11)])

    at_once = forecast(files, files[0].manifest, Pace(), 2000, 1.0)
    steady = forecast(files, files[0].manifest, paced, 2000, 1.0)

    assert (at_once.seconds.low, at_once.seconds.high) == (None, None)
    assert at_once.seconds.value == pytest.approx(files[0].manifest.seconds.engine * 100)
    assert "at once" in at_once.section().notes[-1]
    assert steady.seconds.low == steady.seconds.value == pytest.approx(1000.0)
    assert len(steady.section().notes) == 1
