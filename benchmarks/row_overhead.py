"""What a row costs without an engine: the echo engine against pyarrow reading and writing the same tables.

The limit reads the input and writes the output, which is there already: what remains is what this package adds. What a
run costs whatever its rows (two processes start) is measured with a few rows and taken off. CPU seconds count every
process; on a machine that others use they say more than the wall clock's.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama import EmbedJob, GenerateJob, run_partition
from airflow_mullama.jobs import Job
from airflow_mullama.storage.parquet_output import ROW_GROUP_ROWS

FEW_ROWS = 1000


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


def write_input(path: Path, rows: int) -> None:
    texts = [f"ticket {row}: the parcel did not come and I want to know why" for row in range(rows)]
    pq.write_table(pa.table({"id": range(rows), "text": texts}), path, row_group_size=25_000)


def overhead(rows: int) -> dict[str, float]:
    """Prints the figures; for each task our CPU seconds over pyarrow's."""
    ratios = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, source = folder / "few.parquet", folder / "in.parquet"
        write_input(few, FEW_ROWS)
        write_input(source, rows)
        jobs: list[tuple[Job, float]] = [
            (GenerateJob(model="echo", prompt_template="Tag this ticket: {text}"), 20.0),
            (EmbedJob(model="echo", text_column="text", engine_options={"dimensions": 384}), 8.0),
        ]
        for job, target in jobs:
            output = folder / f"{job.task}.parquet"
            copied = folder / f"{job.task}-copy.parquet"
            start = measure(partial(run_partition, job, few, folder / f"{job.task}-few.parquet", listeners=[]))
            ours = measure(partial(run_partition, job, source, output, listeners=[]))
            limit = measure(partial(copy, source, output, copied))
            wall, cpu = (
                ((all_rows - few_rows) / (rows - FEW_ROWS) - of_limit / rows) * 1e6
                for all_rows, few_rows, of_limit in zip(ours, start, limit, strict=True)
            )
            print(
                f"{job.task}: pyarrow {limit[0] / rows * 1e6:.1f} us/row ({limit[1] / rows * 1e6:.1f} CPU); "
                f"airflow-mullama {wall:.1f} us/row over it ({cpu:.1f} CPU), and {start[0]:.1f} s to start "
                f"({start[1]:.1f} CPU); target {target:g} us/row"
            )
            ratios[job.task] = (cpu + limit[1] / rows * 1e6) / (limit[1] / rows * 1e6)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    overhead(parser.parse_args().rows)


if __name__ == "__main__":
    main()
