"""Whatever happens, in whatever order, attempt after attempt: the last one leaves one whole and right output."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from airflow_mullama.errors import AccountingError, MullamaError
from airflow_mullama.fail_points import STEPS

ROWS = 96
CHUNK_ROWS = 12
MAX_RETRIES = 1
FAULTS = ("exception", "disk_full", "worker_killed", "stopped")

rows_of = st.sets(st.integers(0, ROWS - 1), max_size=3)


@dataclass(frozen=True)
class Trouble:
    """What happens at the k-th arrival at a step."""

    step: str
    arrival: int
    fault: str


@st.composite
def troubles(draw: st.DrawFn) -> Trouble:
    step = draw(st.sampled_from(STEPS))
    latest = {"read": 3, "render": 8, "stage": 8, "staged": 8, "commit": 1, "write": 1, "publish": 1, "published": 1}
    return Trouble(step, draw(st.integers(1, latest.get(step, 24))), draw(st.sampled_from(FAULTS)))


@dataclass(frozen=True)
class Schedule:
    """What happens in each attempt but the last, and what the engine does with some rows in all of them."""

    attempts: list[list[Trouble]]
    nulls: set[int]
    fail: set[int]
    fail_once: set[int]
    crash: set[int]


schedules = st.builds(
    Schedule,
    st.lists(st.lists(troubles(), min_size=1, max_size=2), min_size=1, max_size=3),
    nulls=rows_of,
    fail=rows_of,
    fail_once=rows_of,
    crash=st.sets(st.integers(0, ROWS - 1), max_size=2),
)


@dataclass
class Strikes:
    """Makes the troubles of one attempt happen."""

    troubles: list[Trouble]
    error: type[Exception]
    workers: Callable[[], list[psutil.Process]]
    stop: threading.Event = field(default_factory=threading.Event)
    kills: int = 0
    arrivals: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, step: str) -> None:
        with self.lock:
            self.arrivals[step] += 1
            number = self.arrivals[step]
        for trouble in self.troubles:
            if (trouble.step, trouble.arrival) == (step, number):
                self._strike(trouble.fault)

    def _strike(self, fault: str) -> None:
        if fault == "exception":
            raise self.error("injected")
        if fault == "disk_full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if fault == "stopped":
            self.stop.set()
        else:
            self.kills += 1
            for worker in self.workers():
                worker.kill()


def write_input(folder: Path, nulls: set[int]) -> Path:
    texts = [None if row in nulls else f"ticket number {row}" for row in range(ROWS)]
    table = pa.table({"id": pa.array(range(ROWS), pa.int64()), "text": pa.array(texts, pa.string())})
    third = ROWS // 3
    for number in range(3):
        pq.write_table(table.slice(number * third, third), folder / f"part-{number}.parquet")
    return folder


def expected_row(row: int, schedule: Schedule) -> tuple[str | None, str, str | None, int]:
    """Response, status, error type and attempts."""
    if row in schedule.nulls:
        return None, "skipped", "null_input", 0
    if row in schedule.crash:
        return None, "failed", "engine_crash", 1
    if row in schedule.fail:
        return None, "failed", "engine_error", 1 + MAX_RETRIES
    return f"ticket number {row}", "success", None, 2 if row in schedule.fail_once else 1


def engine_faults(schedule: Schedule) -> dict[str, list[int]]:
    return {
        "fail_once": sorted(schedule.fail_once - schedule.fail - schedule.crash),
        "fail": sorted(schedule.fail - schedule.crash),
        "crash": sorted(schedule.crash),
    }


def assert_right(table: pa.Table, schedule: Schedule, kills: int) -> None:
    assert table.num_rows == ROWS
    assert table.column("id").to_pylist() == list(range(ROWS))
    columns = [table.column(name).to_pylist() for name in ("response", "status", "error_type", "attempts")]
    actual = list(zip(*columns, strict=True))
    wrong = {row: got for row, got in enumerate(actual) if got != expected_row(row, schedule)}
    # A row that is tried alone when somebody else kills the worker cannot be told from one that kills it.
    blamed = {row: got for row, got in wrong.items() if got[:3] == (None, "failed", "engine_crash")}
    assert wrong == blamed
    assert len(blamed) <= kills


@pytest.fixture
def run_to_its_end(
    tmp_path_factory: pytest.TempPathFactory,
    observe: Callable[[Callable[[str], None]], None],
    injected_error: type[Exception],
    workers: Callable[[], list[psutil.Process]],
    make_work: Callable[..., Any],
) -> Callable[[Schedule], None]:
    """Make all attempts of a schedule; after each, what is there must be right, and after the last, everything."""

    def run(schedule: Schedule) -> None:
        folder = tmp_path_factory.mktemp("schedule")
        source = folder / "in"
        source.mkdir()
        work = make_work(
            write_input(source, schedule.nulls),
            folder,
            faults=engine_faults(schedule),
            chunk_rows=CHUNK_ROWS,
            max_retries=MAX_RETRIES,
            max_error_ratio=1.0,
        )
        kills = 0
        for planned in itertools.chain(schedule.attempts, [[]]):
            durable, published, asked_before = work.staged_rows(), work.output.exists(), work.asked()
            strikes = Strikes(planned, injected_error, workers)
            observe(strikes)
            manifest, ending = None, None
            try:
                manifest = work.run(stop=strikes.stop)
            except (injected_error, OSError, MullamaError) as error:
                ending = error
            assert ending is None or planned, f"nothing was planned and it ended with {ending!r}"
            assert not isinstance(ending, AccountingError)
            kills += strikes.kills
            if not published:
                # What is durable is not asked again, unless its error may pass.
                assert set(work.asked() - asked_before).isdisjoint(durable - schedule.fail)
            if work.output.exists():
                assert_right(pq.read_table(work.output), schedule, kills)

        assert manifest is not None
        table = pq.read_table(work.output)
        assert manifest.rows == ROWS == sum(manifest.status_counts.values())
        assert dict(manifest.status_counts) == Counter(table.column("status").to_pylist())
        assert dict(manifest.error_types) == Counter(table.column("error_type").drop_null().to_pylist())
        assert manifest.attempts == sum(table.column("attempts").to_pylist())
        assert sorted(path.name for path in work.output.parent.iterdir()) == [work.output.name]

    return run


# An example takes a second or more: shrinking a failure would look like a hang.
def examples(count: int) -> hypothesis.settings:
    return hypothesis.settings(max_examples=count, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])


@examples(12)
@hypothesis.given(schedule=schedules)
def test_any_schedule_of_faults_ends_with_a_whole_and_right_output(
    schedule: Schedule, run_to_its_end: Callable[[Schedule], None]
):
    run_to_its_end(schedule)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@examples(500)
@hypothesis.given(schedule=schedules)
def test_any_of_many_schedules_ends_with_a_whole_and_right_output(
    schedule: Schedule, run_to_its_end: Callable[[Schedule], None]
):
    run_to_its_end(schedule)
