"""What a row costs without an engine: the echo engine against pyarrow reading and writing the same tables.

The limit reads the input and writes the output, which is there already: what remains is what this package adds. CPU
seconds count every process; on a machine that others use they say more than the wall clock's.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama import EmbedJob, GenerateJob, run_partition
from airflow_mullama.jobs import Job
from airflow_mullama.storage.parquet_output import ROW_GROUP_ROWS


def measure(action: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and CPU seconds, those of ended children included."""

    def cpu_seconds() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    cpu, wall = cpu_seconds(), time.perf_counter()
    action()
    return time.perf_counter() - wall, cpu_seconds() - cpu


def copy(source: Path, output: Path, target: Path) -> None:
    """Read the input, then read the output and write it again, a row group at a time."""
    with pq.ParquetFile(source) as file:
        for _ in file.iter_batches(4096):
            pass
    with pq.ParquetFile(output) as file, pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer:
        for batch in file.iter_batches(ROW_GROUP_ROWS):
            writer.write_batch(batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.parquet"
        texts = [f"ticket {row}: the parcel did not come and I want to know why" for row in range(rows)]
        pq.write_table(pa.table({"id": range(rows), "text": texts}), source, row_group_size=25_000)
        jobs: list[tuple[Job, float]] = [
            (GenerateJob(model="echo", prompt_template="Tag this ticket: {text}"), 20.0),
            (EmbedJob(model="echo", text_column="text", engine_options={"dimensions": 384}), 8.0),
        ]
        for job, target in jobs:
            output = folder / f"{job.task}.parquet"
            wall, cpu = measure(lambda job=job, output=output: run_partition(job, source, output, listeners=[]))
            limit_wall, limit_cpu = measure(
                lambda job=job, output=output: copy(source, output, folder / f"{job.task}-copy.parquet")
            )
            per_row = [(ours - limit) / rows * 1e6 for ours, limit in ((wall, limit_wall), (cpu, limit_cpu))]
            print(
                f"{job.task}: pyarrow {limit_wall / rows * 1e6:.1f} us/row ({limit_cpu / rows * 1e6:.1f} CPU); "
                f"airflow-mullama {per_row[0]:.1f} us/row over it ({per_row[1]:.1f} CPU); target {target:g}"
            )


if __name__ == "__main__":
    main()
