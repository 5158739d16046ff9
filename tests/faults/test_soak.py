"""Many rows, some of them bad, and a worker that dies again and again: nothing is lost and memory stays flat."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.progress import Snapshot
from airflow_mullama.run.runner import run_partition

ERROR_EVERY = 100
MEMORY_GROWTH_BYTES = 100 << 20
LOOK_EVERY_ROWS = 250


class MemoryWatch:
    """A listener that looks at this process's memory as the rows go by."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._next = 0
        self.seen: list[tuple[float, int]] = []

    def announce(self, message: str) -> None:
        pass

    def progress(self, snapshot: Snapshot) -> None:
        pass

    def advance(self, snapshot: Snapshot) -> None:
        if snapshot.done >= self._next:
            self._next = snapshot.done + LOOK_EVERY_ROWS
            self.seen.append((snapshot.share, self._process.memory_info().rss))

    def peak(self, start: float, stop: float) -> int:
        return max(memory for share, memory in self.seen if start <= share <= stop)


def write_input(path: Path, rows: int) -> None:
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 10_000):
            ids = range(start, min(start + 10_000, rows))
            writer.write_table(pa.table([pa.array(ids), [f"ticket number {row}" for row in ids]], schema=schema))


def soak(folder: Path, rows: int, crash_every: int, **options: Any) -> None:
    failing = set(range(ERROR_EVERY // 2, rows, ERROR_EVERY))
    crashing = set(range(crash_every // 2 + 1, rows, crash_every))
    assert not failing & crashing
    source, output, log = folder / "tickets.parquet", folder / "out" / "answers.parquet", folder / "requests.log"
    write_input(source, rows)
    job = GenerateJob(
        model="echo",
        prompt_template="{text}",
        max_retries=0,
        engine_options={
            "faults": {"fail": sorted(failing), "crash": sorted(crashing)},
            "request_log": str(log),
            **options,
        },
    )
    watch = MemoryWatch()

    manifest = run_partition(job, source, output, listeners=[watch])

    assert manifest.rows == rows
    assert manifest.status_counts == {"success": rows - len(failing) - len(crashing), "failed": len(failing | crashing)}
    assert manifest.error_types == {"engine_error": len(failing), "engine_crash": len(crashing)}
    assert manifest.computed_rows == rows
    assert manifest.attempts == rows
    assert watch.peak(0.5, 1.0) - watch.peak(0.0, 0.1) < MEMORY_GROWTH_BYTES

    with pq.ParquetFile(output) as file:
        start = 0
        for batch in file.iter_batches(50_000):
            check(batch, start, failing, crashing)
            start += batch.num_rows
    assert start == rows
    assert os.listdir(output.parent) == [output.name]

    asked = Counter(map(int, log.read_text().split()))
    assert len(asked) == rows
    window = 2 * job.engine_options.get("n_parallel", 4)
    assert asked.total() - rows <= len(crashing) * window


def check(batch: pa.RecordBatch, start: int, failing: set[int], crashing: set[int]) -> None:
    """Every row where it belongs, with its own answer or its own error."""
    rows = range(start, start + batch.num_rows)
    assert batch.column("id").equals(pa.array(rows, pa.int64()))
    expected = ["engine_error" if row in failing else "engine_crash" if row in crashing else None for row in rows]
    assert batch.column("error_type").equals(pa.array(expected, pa.string()))
    answers = pc.if_else(pc.is_null(batch.column("error_type")), batch.column("text"), pa.scalar(None, pa.string()))
    assert batch.column("response").equals(answers)


@pytest.mark.timeout(600)
def test_twenty_thousand_rows_with_errors_and_crashes_lose_nothing(tmp_path: Path, no_worker_left: None):
    soak(tmp_path, 20_000, crash_every=2_000, n_parallel=16)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_million_rows_with_errors_and_crashes_lose_nothing_and_keep_memory_flat(tmp_path: Path, no_worker_left: None):
    soak(tmp_path, 1_000_000, crash_every=50_000)
