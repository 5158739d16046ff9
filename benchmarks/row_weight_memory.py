"""Peak memory of the task's process for rows of 1 KB to 64 MB, against the bound of 600 MiB.

The engine is echo and its process is not counted: what is measured is reading, prompts, the pipe, durable chunks and
the output, all of which have a bound in bytes. Texts are random, so that nothing is small because it is packed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BOUND_MIB = 600
ROW_BYTES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 64_000_000)
FEWEST_ROWS = 12
RUN = """
import resource, sys
from airflow_mullama import GenerateJob, run_partition
job = GenerateJob(model="echo", prompt_template="Tag this ticket: {text}", max_tokens=int(sys.argv[3]))
manifest = run_partition(job, *sys.argv[1:3], listeners=[])
assert manifest.status_counts == {"success": manifest.rows}, manifest.status_counts
if sys.platform == "linux":  # where ru_maxrss also knows the process that started this one
    (kilobytes,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(int(kilobytes) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def write_input(path: Path, row_bytes: int, rows: int) -> None:
    """Rows of random words, in pages of a few rows."""
    random = np.random.default_rng(0)
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    at_once = max(1, 16_000_000 // row_bytes)
    with pq.ParquetWriter(path, schema, use_dictionary=False, write_batch_size=min(16, at_once)) as writer:
        for start in range(0, rows, at_once):
            numbers = range(start, min(start + at_once, rows))
            texts = []
            for _ in numbers:
                letters = random.integers(ord("a"), ord("z") + 1, row_bytes, np.uint8)
                letters[7::8] = ord(" ")
                texts.append(letters.tobytes().decode())
            writer.write_table(pa.table([pa.array(numbers), pa.array(texts)], schema=schema))


def peak_over_bound(row_bytes: int, total_bytes: int, max_tokens: int = 256) -> float:
    """Peak memory of a run over rows of this weight, as a share of the bound."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.parquet")
        write_input(source, row_bytes, max(FEWEST_ROWS, total_bytes // row_bytes))
        command = [sys.executable, "-c", RUN, str(source), str(Path(folder, "out.parquet")), str(max_tokens)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        return int(result.stdout) / (BOUND_MIB << 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total-bytes", type=int, default=500_000_000, help="of each input (at least 12 rows)")
    parser.add_argument("--row-bytes", type=int, nargs="*", default=ROW_BYTES)
    parser.add_argument("--max-tokens", type=int, default=256, help="words of an answer; many for heavy answers, too")
    arguments = parser.parse_args()
    for row_bytes in arguments.row_bytes:
        share = peak_over_bound(row_bytes, arguments.total_bytes, arguments.max_tokens)
        print(f"rows of {row_bytes:,} bytes: {share * BOUND_MIB:.0f} MiB = {share:.2f} of {BOUND_MIB} MiB", flush=True)


if __name__ == "__main__":
    main()
