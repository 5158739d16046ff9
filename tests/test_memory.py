"""Memory does not grow with the number of rows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MEGABYTES = 1 << 20
RUN = """
import resource, sys
from airflow_mullama import GenerateJob, run_partition
job = GenerateJob(model="echo", prompt_template="Tag this ticket: {text}", engine_options={"n_parallel": 8})
manifest = run_partition(job, sys.argv[1], sys.argv[2], listeners=[])
assert manifest.status_counts == {"success": int(sys.argv[3])}, manifest.status_counts
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak if sys.platform == "darwin" else peak * 1024)
"""


def peak_bytes(folder: Path, rows: int) -> int:
    """Peak memory of a process that runs a partition of so many rows, each with about 200 bytes of text."""
    source = folder / f"{rows}.parquet"
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(source, schema) as writer:
        for start in range(0, rows, 10_000):
            numbers = range(start, start + 10_000)
            texts = [f"ticket {number}: " + f"{number * 2654435761 % 2**32:x} " * 20 for number in numbers]
            writer.write_table(pa.table([pa.array(numbers), pa.array(texts)], schema=schema))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(source), str(folder / f"out-{rows}.parquet"), str(rows)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


def test_ten_times_the_rows_need_the_same_memory(tmp_path: Path) -> None:
    few, many = peak_bytes(tmp_path, 20_000), peak_bytes(tmp_path, 200_000)
    assert many - few < 150 * MEGABYTES, f"{few / MEGABYTES:.0f} MB and {many / MEGABYTES:.0f} MB"
