"""Progress of a job of several partitions: one sum, which never falls back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.progress import Snapshot, WholeJob
from airflow_mullama.run import run_job
from airflow_mullama.run.job_progress import JobProgress

SIZES = (20, 50, 30)


class Heard:
    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self.wholes: list[WholeJob] = []

    def announce(self, message: str) -> None:
        pass

    def progress(self, snapshot: Snapshot) -> None:
        self.advance(snapshot)

    def advance(self, snapshot: Snapshot) -> None:
        assert snapshot.whole is not None
        self.snapshots.append(snapshot)
        self.wholes.append(snapshot.whole)


def job(**options: Any) -> GenerateJob:
    return GenerateJob(
        model="echo", prompt_column="text", max_retries=0, max_error_ratio=1.0, engine_options=options, chunk_rows=10
    )


@pytest.fixture
def lake(tmp_path: Path, write_parquet: Any) -> Path:
    for day, rows in enumerate(SIZES, start=1):
        write_parquet(tmp_path / "in" / f"ds=2026-01-0{day}" / "a.parquet", [f"row {row}" for row in range(rows)])
    return tmp_path / "in"


def test_the_sum_counts_all_partitions_and_never_falls_back(lake: Path, tmp_path: Path) -> None:
    heard = Heard()
    run_job(job(faults={"fail": [3]}), str(lake), str(tmp_path / "out"), listeners=[heard])
    done = [whole.done for whole in heard.wholes]
    assert done == sorted(done)
    assert {whole.total for whole in heard.wholes} == {100}
    assert {(whole.partition_number, whole.partition_count) for whole in heard.wholes} == {(1, 3), (2, 3), (3, 3)}
    assert heard.snapshots[-1].total == 30
    assert heard.snapshots[-1].to_json() == {
        **heard.snapshots[-1].to_json(),
        "done": 100,
        "total": 100,
        "errors": 3,
        "eta_seconds": 0.0,
        "partition_number": 3,
        "partition_count": 3,
        "partition_done": 30,
        "partition_total": 30,
    }


def test_what_was_done_before_counts_without_a_word_of_its_own(lake: Path, tmp_path: Path) -> None:
    run_job(job(), [str(lake / "ds=2026-01-01"), str(lake / "ds=2026-01-02")], str(tmp_path / "out"))
    heard = Heard()
    run_job(job(), str(lake), str(tmp_path / "out"), listeners=[heard])
    assert min(whole.done for whole in heard.wholes) > 70
    assert {(whole.total, whole.partition_number) for whole in heard.wholes} == {(100, 3)}


def test_the_time_left_is_that_of_all_partitions(tmp_path: Path) -> None:
    now = [0.0]
    heard = Heard()
    progress = JobProgress([heard], lambda: now[0])
    progress.start([100, 300])
    now[0] = 5.0
    progress.progress(Snapshot(50, 100, 0, 10.0, 0.0, 5.0, "/a"))
    progress.progress(Snapshot(0, 100, 0, 0.0, 0.0, None, "/a"))
    assert [whole.eta_seconds for whole in heard.wholes] == [pytest.approx(35.0), None]
