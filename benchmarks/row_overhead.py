"""What a row costs without an engine: the echo engine against pyarrow reading and writing the same table."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama import EmbedJob, GenerateJob, run_partition
from airflow_mullama.jobs import Job


def measure(job: Job, source: Path, folder: Path) -> float:
    """Seconds of one whole run, engine start included."""
    target = folder / f"{job.task}.parquet"
    started = time.perf_counter()
    run_partition(job, source, target, listeners=[])
    return time.perf_counter() - started


def measure_pyarrow(source: Path, target: Path) -> float:
    """Seconds that reading and writing take, a batch at a time."""
    started = time.perf_counter()
    with pq.ParquetFile(source) as file, pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer:
        for batch in file.iter_batches(4096):
            writer.write_batch(batch)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.parquet"
        texts = [f"ticket {row}: the parcel did not come and I want to know why" for row in range(rows)]
        pq.write_table(pa.table({"id": range(rows), "text": texts}), source, row_group_size=25_000)
        limit = measure_pyarrow(source, folder / "copy.parquet")
        print(f"pyarrow read + write: {limit / rows * 1e6:.2f} us/row")
        jobs: list[Job] = [
            GenerateJob(model="echo", prompt_template="Tag this ticket: {text}"),
            EmbedJob(model="echo", text_column="text", engine_options={"dimensions": 384}),
        ]
        for job in jobs:
            seconds = measure(job, source, folder)
            over = (seconds - limit) / rows * 1e6
            print(f"{job.task}: {over:.1f} us/row over it ({seconds / limit:.1f} times its seconds)")


if __name__ == "__main__":
    main()
