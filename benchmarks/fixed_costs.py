"""What does not depend on the rows: the first result after a start, and a partition in which nothing changed.

The first result is compared with loading the same model in a process of its own; the unchanged partition, of a million
rows, with reading its footer.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama import GenerateJob, run_partition
from airflow_mullama.models.resolve import resolve_model
from airflow_mullama.progress import Snapshot

LOAD = """
import os, sys, time
started = time.perf_counter()
import xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.n_ctx, parameters.n_parallel, parameters.warmup = 16 * 512, 16, False
parameters.hostnames = [sys.argv[2]]
server = xllamacpp.Server(parameters)
answer = server.handle_completions({"prompt": "Tag this ticket: where is my order", "max_tokens": 48})
assert answer["choices"]
print(time.perf_counter() - started, flush=True)
os._exit(0)
"""


class FirstRow:
    """Notes when the first row is done."""

    def __init__(self) -> None:
        self.at: float | None = None

    def announce(self, message: str) -> None:
        pass

    def progress(self, snapshot: Snapshot) -> None:
        pass

    def advance(self, snapshot: Snapshot) -> None:
        if self.at is None:
            self.at = time.perf_counter()


def first_result(folder: Path) -> None:
    model = resolve_model("demo:ticket-tagger").path
    source = folder / "first.parquet"
    pq.write_table(pa.table({"text": [f"where is my order {row}" for row in range(1000)]}), source)
    job = GenerateJob(model=model, prompt_template="Tag this ticket: {text}", max_tokens=48)
    seconds, loads = [], []
    for number in range(3):
        before = time.perf_counter()
        command = [sys.executable, "-c", LOAD, model, str(folder / f"{number}.sock")]
        loads.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        process = time.perf_counter() - before - loads[-1]
        listener = FirstRow()
        started = time.perf_counter()
        run_partition(job, source, folder / f"first-{number}.parquet", listeners=[listener])
        assert listener.at is not None
        seconds.append(listener.at - started)
        loads[-1] += process
    print(
        f"first result: {min(seconds):.2f} s after the start; a process that loads the model and answers once takes "
        f"{min(loads):.2f} s: {min(seconds) - min(loads):+.2f} s (target +1)"
    )


def unchanged_partition(folder: Path, rows: int) -> None:
    source, output = folder / "many.parquet", folder / "many-out.parquet"
    pq.write_table(pa.table({"text": [f"ticket {row}" for row in range(rows)]}), source)
    job = GenerateJob(model="echo", prompt_template="{text}")
    run_partition(job, source, output, listeners=[])
    footer, again = [], []
    for _ in range(5):
        started = time.perf_counter()
        pq.ParquetFile(output).close()
        footer.append(time.perf_counter() - started)
        started = time.perf_counter()
        manifest = run_partition(job, source, output, listeners=[])
        again.append(time.perf_counter() - started)
        assert manifest.skipped == "up_to_date"
    print(
        f"unchanged partition of {rows} rows: {min(again) * 1000:.0f} ms; reading its footer "
        f"{min(footer) * 1000:.1f} ms (target 200 ms)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        first_result(Path(name))
        unchanged_partition(Path(name), rows)


if __name__ == "__main__":
    main()
