"""Peak memory of a run of a million rows, against a tenth and a hundredth of them: the task's process and its worker's.

What is bounded (remembered requests, a row group, the window) is full with a hundred thousand rows; from there on
nothing should be added. The engine is echo, so that no model hides what this package takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

BATCH_ROWS = 25_000
RUN = """
import json, resource, sys
from airflow_mullama import EmbedJob, GenerateJob, run_partition
task, source, target = sys.argv[1:]
if task == "generate":
    job = GenerateJob(model="echo", prompt_template="Tag this ticket: {text}")
else:
    job = EmbedJob(model="echo", text_column="text", engine_options={"dimensions": 384})
run_partition(job, source, target, listeners=[])
peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps([peak / (2**20 if sys.platform == "darwin" else 2**10) for peak in peaks]))
"""


def write_input(path: Path, rows: int) -> None:
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, BATCH_ROWS):
            numbers = range(start, min(start + BATCH_ROWS, rows))
            texts = [f"ticket {number}: the parcel did not come and I want to know why" for number in numbers]
            writer.write_table(pa.table([pa.array(numbers), pa.array(texts)], schema=schema))


def peak_megabytes(task: str, rows: int) -> list[float]:
    """Of the task's process and of its worker's."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.parquet")
        write_input(source, rows)
        command = [sys.executable, "-c", RUN, task, str(source), str(Path(folder, "out.parquet"))]
        return list(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    for task in ("generate", "embed"):
        peaks = [peak_megabytes(task, count) for count in (rows // 100, rows // 10, rows)]
        for process, (small, middle, large) in zip(("task", "worker"), zip(*peaks, strict=True), strict=True):
            print(
                f"{task}, {process}: {small:.0f} MB with {rows // 100:,} rows, {middle:.0f} MB with {rows // 10:,}, "
                f"{large:.0f} MB with {rows:,} = {large / middle:.2f} times"
            )


if __name__ == "__main__":
    main()
