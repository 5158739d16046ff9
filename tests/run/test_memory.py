"""Memory grows neither with the number of rows nor with what a row weighs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

MEGABYTES = 1 << 20
RUN = """
import resource, sys
from airflow_mullama import GenerateJob, run_partition
job = GenerateJob(model="echo", prompt_template="Tag this ticket: {text}", engine_options={"n_parallel": 8})
manifest = run_partition(job, sys.argv[1], sys.argv[2], listeners=[])
assert manifest.status_counts == {"success": int(sys.argv[3])}, manifest.status_counts
if sys.platform == "linux":  # where ru_maxrss also knows the process that started this one
    (kilobytes,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(int(kilobytes) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])


def peak_bytes_of_light_rows(folder: Path, rows: int) -> int:
    """Peak memory of a run of this many rows, each with about 200 bytes of text."""
    source = folder / f"{rows}.parquet"
    with pq.ParquetWriter(source, SCHEMA) as writer:
        for start in range(0, rows, 10_000):
            numbers = range(start, start + 10_000)
            texts = [f"ticket {number}: " + f"{number * 2654435761 % 2**32:x} " * 20 for number in numbers]
            writer.write_table(pa.table([pa.array(numbers), pa.array(texts)], schema=SCHEMA))
    return peak_bytes(source, folder / f"out-{rows}.parquet", rows)


def peak_bytes(source: Path, output: Path, rows: int) -> int:
    """Peak memory of a process that runs a partition."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(source), str(output), str(rows)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


def test_ten_times_the_rows_need_the_same_memory(tmp_path: Path) -> None:
    few, many = peak_bytes_of_light_rows(tmp_path, 20_000), peak_bytes_of_light_rows(tmp_path, 200_000)
    assert many - few < 150 * MEGABYTES, f"{few / MEGABYTES:.0f} MB and {many / MEGABYTES:.0f} MB"


@pytest.mark.parametrize(("rows", "row_bytes"), [(20, 10 * MEGABYTES), (3, 60 * MEGABYTES)])
def test_heavy_rows_stay_within_the_bound(tmp_path: Path, rows: int, row_bytes: int) -> None:
    source = tmp_path / "in.parquet"
    words = f"{2654435761:x} " * (row_bytes // 9)
    with pq.ParquetWriter(source, SCHEMA, use_dictionary=False, write_batch_size=1) as writer:
        for row in range(rows):
            writer.write_table(pa.table([pa.array([row]), pa.array([f"{row} {words}"])], schema=SCHEMA))
    peak = peak_bytes(source, tmp_path / "out.parquet", rows)
    assert peak < 600 * MEGABYTES, f"{peak / MEGABYTES:.0f} MB"
