"""What is durable when: with a clock that the test moves, a real stage, and the thread that writes it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mullama.errors import AccountingError, JobStoppedError
from airflow_mullama.run import chunk_collector, run_partition
from airflow_mullama.run.chunk_collector import ChunkCollector
from airflow_mullama.run.durable_chunks import DurableChunks
from airflow_mullama.run.other_attempts import OtherAttempts
from airflow_mullama.storage.filesystems import Location, resolve_location
from airflow_mullama.storage.staging.stage import ChunkPlan, Stage

SCHEMA = pa.schema(
    [pa.field("row", pa.int64(), nullable=False), ("response", pa.string()), ("error_type", pa.string())]
)


def outcomes(rows: list[int]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {"row": rows, "response": [f"answer {row}" for row in rows], "error_type": [None] * len(rows)}, schema=SCHEMA
    )


class Attempt:
    """One that collects the chunks of a partition, and knows what time it is."""

    def __init__(self, output: Location, rows: int, chunk_rows: int) -> None:
        self.now = 1000.0
        self.stage = Stage(output, "f" * 64, SCHEMA)
        self.stage.open()
        self.chunks = ChunkPlan(rows, chunk_rows)
        self.durable = DurableChunks(self.chunks, self.stage)
        self.collector = ChunkCollector(
            self.stage,
            SCHEMA,
            chunk_rows=chunk_rows,
            chunk_seconds=60.0,
            events=queue.SimpleQueue(),
            durable=self.durable,
            others=OtherAttempts(self.stage, output, lambda: False),
            raise_if_stopped=lambda: None,
            clock=lambda: self.now,
        )
        for chunk in self.chunks:
            self.collector.begin(chunk)

    def files(self) -> list[Location]:
        return [file for files in self.stage.staged().values() for file in files]

    def durable_rows(self) -> list[int]:
        """Those that another attempt finds."""
        rows: list[int] = []
        for (start, _), files in self.stage.staged().items():
            for file in files:
                table = self.stage.read_file(file, self.chunks[start // self.chunks.chunk_rows])
                assert table is not None
                rows += table.column("row").to_pylist()
        return sorted(rows)


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Attempt]:
    attempt = Attempt(resolve_location(tmp_path / "out.parquet"), 20, 10)
    yield attempt
    attempt.collector.rescue()


def test_finished_rows_are_durable_after_chunk_seconds_and_not_before(
    attempt: Attempt, eventually: Callable[..., Any]
) -> None:
    attempt.collector.add(outcomes([3, 1, 12]))
    attempt.now += 59
    attempt.collector.add(outcomes([4]))
    attempt.collector.keep_due()
    assert attempt.durable_rows() == []
    attempt.now += 1
    attempt.collector.keep_due()
    eventually(lambda: (attempt.collector.keep_due(), attempt.durable_rows() == [1, 3, 4, 12])[1])
    attempt.now += 30
    attempt.collector.add(outcomes([7]))
    attempt.now += 30
    attempt.collector.keep_due()  # the new one has waited for half of it only, and without new ones nothing is written
    assert attempt.durable_rows() == [1, 3, 4, 12]
    attempt.now += 30
    attempt.collector.keep_due()
    eventually(lambda: attempt.durable_rows() == [1, 3, 4, 7, 12])
    assert len(attempt.files()) == 2  # of one chunk there is one file, which has grown


def test_hours_of_slow_rows_leave_one_file_for_each_chunk(tmp_path: Path) -> None:
    attempt = Attempt(resolve_location(tmp_path / "out.parquet"), 600, 250)
    for row in range(600):
        attempt.now += 61
        attempt.collector.keep_due()
        attempt.collector.add(outcomes([row]))
    attempt.collector.finish()
    assert sorted(file.name for file in attempt.files()) == [attempt.stage.name_of(chunk) for chunk in attempt.chunks]
    assert attempt.durable_rows() == list(range(600))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(40)),
    cuts=st.lists(st.integers(1, 7), min_size=40, max_size=40),
    due=st.sets(st.integers(0, 40)),
    open_bytes=st.sampled_from([1, 100, 300, 1 << 20]),
)
def test_chunks_are_the_same_however_their_rows_became_durable(
    order: list[int],
    cuts: list[int],
    due: set[int],
    open_bytes: int,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunk_collector, "OPEN_CHUNKS_BYTES", open_bytes)
    output = resolve_location(tmp_path_factory.mktemp("lake") / "out.parquet")
    attempt = Attempt(output, 40, 15)
    while order:
        count = cuts.pop()
        attempt.collector.add(outcomes(order[:count]))
        order = order[count:]
        if len(order) in due:
            attempt.now += 60
            attempt.collector.keep_due()
    attempt.collector.finish()
    attempt.durable.finish()
    table = pa.concat_tables(attempt.durable.tables())
    assert table.column("row").to_pylist() == list(range(40))
    assert table.column("response").to_pylist() == [f"answer {row}" for row in range(40)]
    assert set(attempt.durable_rows()) == set(range(40))


def test_a_row_with_two_outcomes_is_told_also_where_one_is_in_a_part(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_collector, "OPEN_CHUNKS_BYTES", 1)
    attempt.collector.add(outcomes([0, 1, 2, 3, 4]))
    attempt.collector.add(outcomes([4, 5, 6, 7, 8]))
    attempt.collector.add(outcomes(list(range(10, 20))))
    with pytest.raises(AccountingError, match="outcomes for other rows"):
        attempt.collector.finish()


@pytest.mark.parametrize("open_bytes", [1, 1 << 20])
def test_the_next_attempt_goes_on_from_parts_and_its_output_is_the_same(
    echo_job: Any,
    tmp_path: Path,
    write_parquet: Callable[..., Path],
    texts: Callable[..., list[str]],
    recorder: Any,
    request_log: Any,
    eventually: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    open_bytes: int,
) -> None:
    monkeypatch.setattr(chunk_collector, "OPEN_CHUNKS_BYTES", open_bytes)
    due, is_late = ChunkCollector.keep_due, threading.Event()

    def always_due(self: ChunkCollector) -> None:
        eventually(self._to_write.empty)  # the writing thread may be slow, and is not waited for otherwise
        self._clock = lambda: np.inf
        due(self)
        if is_late.is_set():
            raise JobStoppedError("killed")

    def killed(self: ChunkCollector) -> None:
        self._to_write.put(None)
        self._thread.join()  # what it has is written; what is at hand otherwise is lost

    monkeypatch.setattr(ChunkCollector, "keep_due", always_due)
    monkeypatch.setattr(ChunkCollector, "rescue", killed)
    source, output = write_parquet(tmp_path / "in.parquet", texts(120)), tmp_path / "out.parquet"

    def stop_late(snapshot: Any) -> None:
        if snapshot.done >= 80:
            is_late.set()

    job = echo_job(chunk_rows=50, delay_s=0.01, faults={"fail": [3, 60]}, max_retries=0)
    with pytest.raises(JobStoppedError):
        run_partition(job, source, output, listeners=[recorder(stop_late)])
    stage = tmp_path / "_mullama_stage"
    assert len(list(stage.rglob("*.arrow"))) >= 2
    asked = len(request_log.rows())
    is_late.clear()
    job = echo_job(chunk_rows=50, max_retries=0, max_error_ratio=1.0)
    manifest = run_partition(job, source, output, listeners=[])
    assert manifest.status_counts == {"success": 120}
    assert manifest.resumed_rows >= 50
    assert len(request_log.rows()) - asked == 120 - manifest.resumed_rows
    assert not stage.exists()
    run_partition(job, source, tmp_path / "other.parquet", listeners=[])
    assert pq.read_table(output).drop(["attempts"]).equals(pq.read_table(tmp_path / "other.parquet").drop(["attempts"]))
