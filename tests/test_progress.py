from __future__ import annotations

import itertools
import logging
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.progress import (
    CLOSEST_SECONDS,
    EVERY_SECONDS,
    Progress,
    ProgressLog,
    Snapshot,
    WholeJob,
    format_seconds,
)
from airflow_mullama.row_counts import RowCounts

LINE = re.compile(
    r"\[\d+/\d+\] \d+\.\d% \| \d+\.\d rows/s \| \d+ tok/s \| ETA (\?|\d+s|\d+m\d\ds|\d+h\d\dm) \| errors \d+"
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def count(progress: Progress, rows: int, *, failed: int = 0, computed: bool = True) -> None:
    progress.add(
        RowCounts(
            status_counts={"success": rows - failed, "failed": failed},
            error_types={"engine_error": failed},
            attempts=rows,
            prompt_tokens=10 * rows,
            completion_tokens=2 * rows,
            computed_rows=rows if computed else 0,
        )
    )


def snapshot(**changes: Any) -> Snapshot:
    values = {
        "done": 1200, "total": 5000, "errors": 3, "rows_per_second": 35.2, "tokens_per_second": 812.3,
        "eta_seconds": 108.0, "partition": "/in.parquet",
    }  # fmt: skip
    return Snapshot(**{**values, **changes})


def test_the_line_is_exactly_as_documented() -> None:
    assert snapshot().line() == "[1200/5000] 24.0% | 35.2 rows/s | 812 tok/s | ETA 1m48s | errors 3"


def test_an_unknown_time_left_is_a_question_mark() -> None:
    assert "| ETA ? |" in snapshot(eta_seconds=None).line()


@pytest.mark.parametrize(("done", "total"), [(4999, 5000), (2999, 3000), (999_999, 1_000_000)])
def test_it_is_never_a_hundred_percent_before_it_is_done(done: int, total: int) -> None:
    assert "99.9%" in snapshot(done=done, total=total).line()
    assert "100.0%" in snapshot(done=total, total=total).line()


def test_no_rows_at_all_are_done() -> None:
    assert snapshot(done=0, total=0).line().startswith("[0/0] 100.0% |")


@given(total=st.integers(0, 10**9), share=st.floats(0, 1), eta=st.none() | st.floats(0, 10**6))
def test_every_line_has_one_form(total: int, share: float, eta: float | None) -> None:
    line = snapshot(done=int(total * share), total=total, eta_seconds=eta).line()
    assert LINE.fullmatch(line)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (48.4, "48s"), (59.6, "1m00s"), (108, "1m48s"), (3599.7, "1h00m"), (7500, "2h05m")],
)
def test_seconds_are_written_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.fixture
def clock() -> Clock:
    return Clock()


def start(recorder: Any, clock: Clock, total: int = 1000) -> tuple[Progress, Any]:
    listener = recorder()
    progress = Progress(total, "/in.parquet", [listener], clock)
    progress.engine_ready()
    return progress, listener


def test_rates_and_time_left_are_those_of_this_attempt(recorder: Any, clock: Clock) -> None:
    progress, _ = start(recorder, clock)
    count(progress, 400, computed=False)
    clock.now += 10
    count(progress, 100, failed=5)
    now = progress.snapshot()
    assert (now.done, now.errors) == (500, 5)
    assert now.rows_per_second == pytest.approx(10.0)
    assert now.tokens_per_second == pytest.approx(120.0)
    assert now.eta_seconds == pytest.approx(50.0)


def test_loading_the_model_is_not_part_of_the_rate(recorder: Any, clock: Clock) -> None:
    progress = Progress(1000, "/in.parquet", [recorder()], clock)
    clock.now += 600
    progress.engine_ready()
    clock.now += 10
    count(progress, 100)
    assert progress.snapshot().rows_per_second == pytest.approx(10.0)


def test_skipped_rows_are_no_errors(recorder: Any, clock: Clock) -> None:
    progress, _ = start(recorder, clock)
    progress.add(
        RowCounts(
            status_counts={"skipped": 3, "invalid_output": 2},
            error_types={"null_input": 3, "invalid_json": 2},
            attempts=2,
            computed_rows=5,
        )
    )
    assert progress.snapshot().errors == 2


def test_nothing_is_said_before_the_first_result(recorder: Any, clock: Clock) -> None:
    progress, listener = start(recorder, clock)
    clock.now += 60
    progress.tell_if_due()
    count(progress, 10, computed=False)
    progress.tell_if_due()
    assert listener.snapshots == []


def test_the_first_line_comes_within_two_seconds_of_the_first_result(recorder: Any, clock: Clock) -> None:
    progress, listener = start(recorder, clock)
    count(progress, 1)
    for _ in range(20):
        clock.now += 0.1
        progress.tell_if_due()
    assert len(listener.snapshots) == 1


def test_the_first_line_comes_at_once_after_a_slow_first_row(recorder: Any, clock: Clock) -> None:
    progress, listener = start(recorder, clock)
    clock.now += 30
    count(progress, 1)
    progress.tell_if_due()
    assert len(listener.snapshots) == 1


def test_a_slow_engine_is_told_of_every_five_seconds(recorder: Any, clock: Clock) -> None:
    progress, listener = start(recorder, clock)
    count(progress, 1)
    clock.now += 2
    progress.tell_if_due()
    told_at = clock.now
    while len(listener.snapshots) < 2:
        clock.now += 0.25
        progress.tell_if_due()
    assert clock.now - told_at == pytest.approx(EVERY_SECONDS)


def test_five_percent_are_told_of_sooner_but_never_closer_than_a_second(recorder: Any, clock: Clock) -> None:
    progress, listener = start(recorder, clock)
    times = []
    for _ in range(90):
        clock.now += 0.1
        count(progress, 10)
        before = len(listener.snapshots)
        progress.tell_if_due()
        if len(listener.snapshots) > before:
            times.append(clock.now)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert len(times) >= 7
    assert min(gaps) >= CLOSEST_SECONDS - 1e-6


def test_less_than_five_percent_wait_for_their_five_seconds(recorder: Any, clock: Clock) -> None:
    progress, listener = start(recorder, clock)
    clock.now += 2
    count(progress, 1)
    progress.tell_if_due()
    clock.now += 2
    count(progress, 49)
    progress.tell_if_due()
    assert len(listener.snapshots) == 1
    count(progress, 1)
    progress.tell_if_due()
    assert len(listener.snapshots) == 2


def test_the_last_line_always_comes_and_comes_once(recorder: Any, clock: Clock) -> None:
    progress, listener = start(recorder, clock)
    count(progress, 1000)
    clock.now += 3
    progress.tell_if_due()
    assert listener.snapshots == []
    progress.finish()
    (last,) = listener.snapshots
    assert last.line() == "[1000/1000] 100.0% | 333.3 rows/s | 4000 tok/s | ETA 0s | errors 0"


def test_a_display_that_throttles_itself_hears_of_every_change(recorder: Any, clock: Clock) -> None:
    progress, listener = start(recorder, clock)
    for _ in range(5):
        count(progress, 1)
    assert [seen.done for seen in listener.advances] == [1, 2, 3, 4, 5]


def test_the_log_gets_the_lines_and_the_announcements(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "airflow_mullama.progress"):
        progress = Progress(10, "/in.parquet", [ProgressLog()], Clock())
        progress.announce("loading the model")
        progress.engine_ready()
        count(progress, 10)
        progress.finish()
    assert caplog.messages == ["loading the model", "[10/10] 100.0% | 0.0 rows/s | 0 tok/s | ETA 0s | errors 0"]


def test_what_the_state_store_gets_is_small_json() -> None:
    assert snapshot(eta_seconds=108.04).to_json() == {
        "done": 1200,
        "total": 5000,
        "errors": 3,
        "rows_per_second": 35.2,
        "tokens_per_second": 812.3,
        "eta_seconds": 108.0,
        "partition": "/in.parquet",
        "partition_number": 1,
        "partition_count": 1,
        "partition_done": 1200,
        "partition_total": 5000,
    }


def test_of_several_partitions_the_numbers_are_those_of_the_whole() -> None:
    stored = snapshot(whole=WholeJob(6200, 9000, 5, None, 2, 3)).to_json()
    assert (stored["done"], stored["total"], stored["errors"], stored["eta_seconds"]) == (6200, 9000, 5, None)
    assert (stored["partition_number"], stored["partition_count"]) == (2, 3)
    assert (stored["partition_done"], stored["partition_total"]) == (1200, 5000)
