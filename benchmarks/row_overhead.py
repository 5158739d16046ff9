"""What a row costs without a model: the echo engine, its task and its worker, against named limits.

CPU seconds are those of the processes, so that other work on the machine counts little. Of the task's, those are told
apart that pyarrow takes to read the input and to write the output, once more, with the same tables and options; of the
worker's, those of the echo engine itself. What a run costs whatever its rows (a process starts) is measured with a few
rows and taken off.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama import EmbedJob, GenerateJob, run_partition
from airflow_mullama.engines.base import EngineSettings, Request
from airflow_mullama.engines.echo import EchoEngine
from airflow_mullama.jobs.job import Job
from airflow_mullama.jobs.prompts import RequestText
from airflow_mullama.storage.parquet.output_format import writer_options
from airflow_mullama.storage.parquet.whole_file import ROW_GROUP_ROWS

FEW_ROWS = 1000
# What a task may take for a row over reading and writing it, and a worker beside its engine; in microseconds of CPU.
LIMIT_US = 10.0
ROWS_PER_SECOND_WANTED = 64_000
ENGINE_ROWS = 512


@dataclass(frozen=True)
class Cost:
    """Seconds, or what a row costs of them.

    Args:
        task: CPU seconds of this process.
        worker: CPU seconds of its children that ended.
        clock: of the wall.
    """

    task: float
    worker: float
    clock: float

    @classmethod
    def of(cls, action: Callable[[], object]) -> Cost:
        """Do something and measure it."""
        before = cls._now()
        action()
        after = cls._now()
        return cls(after.task - before.task, after.worker - before.worker, after.clock - before.clock)

    @classmethod
    def _now(cls) -> Cost:
        task, worker = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return cls(task.ru_utime + task.ru_stime, worker.ru_utime + worker.ru_stime, time.perf_counter())

    def per_row_over(self, few: Cost, rows: int) -> Cost:
        """Microseconds a row, what a few rows cost taken off."""
        scale = 1e6 / (rows - FEW_ROWS)
        return Cost(
            (self.task - few.task) * scale, (self.worker - few.worker) * scale, (self.clock - few.clock) * scale
        )


@dataclass(frozen=True)
class Overhead:
    """What a row costs, in microseconds.

    Args:
        ours: CPU of task and worker, and by the clock.
        pyarrow: CPU of reading the input and writing the output.
        engine: CPU of the echo engine.
    """

    ours: Cost
    pyarrow: float
    engine: float

    @property
    def task_over_pyarrow(self) -> float:
        """The task's CPU in units of pyarrow's."""
        return self.ours.task / self.pyarrow

    @property
    def worker_over_engine(self) -> float:
        """The worker's CPU in units of its engine's."""
        return self.ours.worker / self.engine

    def __str__(self) -> str:
        task, worker = self.ours.task - self.pyarrow, self.ours.worker - self.engine
        rows_per_second = 1e6 / self.ours.clock
        return (
            f"task {self.ours.task:.1f} us of CPU a row, pyarrow {self.pyarrow:.1f} of it: {task:.1f} of our own = "
            f"{task / LIMIT_US:.2f} of the limit; worker {self.ours.worker:.1f}, its engine {self.engine:.1f} of it: "
            f"{worker:.1f} of our own = {worker / LIMIT_US:.2f} of the limit; {rows_per_second:,.0f} rows/s = "
            f"{rows_per_second / ROWS_PER_SECOND_WANTED:.2f} of what is wanted"
        )


def pyarrow_us(source: Path, output: Path, target: Path) -> float:
    """Microseconds of CPU that pyarrow takes for a row, to read the input and to write the output as it is."""
    begun = time.process_time()
    with pq.ParquetFile(source) as file:
        for _ in file.iter_batches(4096):
            pass
    seconds = time.process_time() - begun
    with pq.ParquetFile(output) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        options = writer_options(schema, file.read_row_group(0))
        with pq.ParquetWriter(target, schema, **options) as writer:
            for batch in file.iter_batches(ROW_GROUP_ROWS):
                begun = time.process_time()
                writer.write_batch(batch)
                seconds += time.process_time() - begun
            begun = time.process_time()
        seconds += time.process_time() - begun
    return seconds / rows * 1e6


def engine_us(job: Job, rows: int) -> float:
    """Microseconds of CPU that the echo engine alone takes for a row."""
    engine = EchoEngine(EngineSettings(job.task, job.model, job.engine_options, job.engine_settings()))
    seconds = 0.0
    for start in range(0, rows, ENGINE_ROWS):
        requests = [Request(row, 1, RequestText(_text(row), ())) for row in range(start, start + ENGINE_ROWS)]
        before = time.thread_time()
        engine.prepare(requests)
        engine.run(requests)
        seconds += time.thread_time() - before
    return seconds / rows * 1e6


def _text(row: int) -> str:
    return f"ticket {row}: the parcel did not come and I want to know why"


def write_input(path: Path, rows: int) -> None:
    texts = [_text(row) for row in range(rows)]
    pq.write_table(pa.table({"id": range(rows), "text": texts}), path, row_group_size=25_000)


def overhead(rows: int, n_parallel: int = 4) -> dict[str, Overhead]:
    """Prints the figures of each task."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, source = folder / "few.parquet", folder / "in.parquet"
        write_input(few, FEW_ROWS)
        write_input(source, rows)
        options = {"n_parallel": n_parallel}
        jobs: list[Job] = [
            GenerateJob(model="echo", prompt_template="Tag this ticket: {text}", engine_options=options),
            EmbedJob(model="echo", text_column="text", engine_options={"dimensions": 384, **options}),
        ]
        for job in jobs:
            output = folder / f"{job.task}.parquet"
            start = Cost.of(partial(run_partition, job, few, folder / f"{job.task}-few.parquet", listeners=[]))
            ours = Cost.of(partial(run_partition, job, source, output, listeners=[]))
            limit = pyarrow_us(source, output, folder / f"{job.task}-copy.parquet")
            one = Overhead(ours.per_row_over(start, rows), limit, engine_us(job, min(rows, 50_000)))
            print(f"{job.task}: {one}; {start.clock:.1f} s to start")
            found[job.task] = one
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--n-parallel", type=int, default=4, help="slots of the echo engine")
    arguments = parser.parse_args()
    overhead(arguments.rows, arguments.n_parallel)


if __name__ == "__main__":
    main()
