"""What an object store costs where each request takes 50 ms: the share of a run's time, its requests, listing a lake.

A partition is read from and written to an S3 API server behind a proxy that answers no request sooner, and on a local
disk. Storage's share is how much longer the first takes in which the engine does not compute, over the time in which it
does. The engine is echo, whose time is set.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from airflow_mullama import GenerateJob, run_job
from airflow_mullama.storage.filesystems import Location, resolve_location
from airflow_mullama.storage.mapped_tasks import list_partitions

BENCHMARKS = Path(__file__).parent
PROXY = BENCHMARKS.parent / "tests" / "latency_proxy.py"
LATENCY = 0.05
MOST_OF_ENGINE = 0.05
SLOTS = 16
ROW_GROUPS = 5
COLUMNS = 20
S3_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


@dataclass
class Store:
    """A store behind the proxy."""

    proxy: subprocess.Popen[str]
    filesystem: pafs.FileSystem

    def resolve(self, url: str | os.PathLike[str]) -> Location:
        text = os.fspath(url)
        if not text.startswith("s3://"):
            return resolve_location(text)
        return Location(self.filesystem, text.removeprefix("s3://").rstrip("/"), text.rstrip("/"))

    def requests(self) -> Counter[str]:
        """By kind, since it was asked last."""
        assert self.proxy.stdin
        assert self.proxy.stdout
        self.proxy.stdin.write("\n")
        self.proxy.stdin.flush()
        return Counter(request["kind"] for request in json.loads(self.proxy.stdout.readline()))


@contextlib.contextmanager
def started(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process and the first line that it prints."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def store_behind_proxy(upstream: str, latency: float) -> Iterator[Store]:
    with started(sys.executable, str(PROXY), upstream, "--latency", str(latency)) as (proxy, port):
        filesystem = pafs.S3FileSystem(
            access_key="test",
            secret_key="test",  # noqa: S106 - of a server of this benchmark
            endpoint_override=f"http://127.0.0.1:{port}",
            region="us-east-1",
            allow_bucket_creation=True,
            allow_delayed_open=True,
        )
        yield Store(proxy, filesystem)


def partition_of(rows: int, seed: int) -> pa.Table:
    noise = random.Random(seed)
    texts = [f"ticket {number}: the parcel did not come, {noise.randbytes(150).hex()}" for number in range(rows)]
    columns = {f"column {number}": [noise.randbytes(20).hex() for _ in range(rows)] for number in range(COLUMNS)}
    return pa.table({"text": texts, **columns})


def share_of_storage(rows: int, engine_seconds: float, partitions: int = 1, files: int = 1) -> float:
    """Prints the figures; the time that a store costs over the engine's."""
    per_row = engine_seconds * partitions * SLOTS / (rows * partitions)
    job = GenerateJob(
        model="echo",
        prompt_template="Tag this ticket: {text}",
        max_tokens=48,
        engine_options={"delay_s": per_row, "n_parallel": SLOTS},
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        started(sys.executable, "-c", S3_SERVER) as (_, upstream),
        store_behind_proxy(upstream, LATENCY) as store,
    ):
        store.filesystem.create_dir("lake")
        for number in range(partitions * files):
            name = f"in/ds={number // files:03d}/part-{number % files:03d}.parquet"
            table = partition_of(rows // files, seed=number)
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, Path(folder, name), row_group_size=-(-rows // ROW_GROUPS))
            pq.write_table(table, f"lake/{name}", filesystem=store.filesystem, row_group_size=-(-rows // ROW_GROUPS))
        store.requests()
        before = time.monotonic()
        there = run_job(job, f"{folder}/in", f"{folder}/out", listeners=[])
        local = time.monotonic() - before
        before = time.monotonic()
        here = run_job(job, "s3://lake/in", "s3://lake/out", resolver=store.resolve, listeners=[])
        stored = time.monotonic() - before
        requests = store.requests()
        before = time.monotonic()
        run_job(job, "s3://lake/in", "s3://lake/out", resolver=store.resolve, listeners=[])
        unchanged = time.monotonic() - before
        known = store.requests()
    engine = here.seconds.engine
    waits = stored - engine - here.seconds.model_load
    on_disk = local - there.seconds.engine - there.seconds.model_load
    share = (waits - on_disk) / engine
    kinds = ", ".join(f"{kind} {count / partitions:.3g}" for kind, count in sorted(requests.items()))
    print(
        f"{partitions} partition(s) of {rows} rows in {files} file(s), {COLUMNS + 1} columns: the engine computes "
        f"{engine:.1f} s and waits {waits:.1f} s besides loading, {on_disk:.1f} s on a local disk: "
        f"storage costs {share:.1%} (target {MOST_OF_ENGINE:.0%})\n"
        f"    requests for each: {sum(requests.values()) / partitions:.3g} ({kinds})\n"
        f"    unchanged: {unchanged / partitions:.2f} s and {sum(known.values()) / partitions:.3g} requests for each",
        flush=True,
    )
    return share


def listing(objects: int, partitions: int) -> float:
    """Prints the figures; the time of listing partitions over that of listing objects with Arrow alone."""
    server = str(BENCHMARKS / "_listed_store.py")
    with (
        started(sys.executable, server, str(objects), str(partitions)) as (_, port),
        store_behind_proxy(f"127.0.0.1:{port}", LATENCY) as store,
    ):
        before = time.monotonic()
        alone = len(store.filesystem.get_file_info(pafs.FileSelector("lake/tickets", recursive=True)))
        arrow = time.monotonic() - before
        assert alone == objects + partitions
        store.requests()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before, cpu = time.monotonic(), time.process_time()
        tasks = list_partitions("s3://lake/tickets", "s3://lake/out", max_tasks=100, resolver=store.resolve)
        seconds, cpu = time.monotonic() - before, time.process_time() - cpu
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 2**10
        assert sum(len(task["input_path"]) for task in tasks) == partitions
        requests = store.requests()
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(requests.items()))
    print(
        f"{objects:,} objects in {partitions:,} partitions: {seconds:.1f} s, {cpu:.1f} s of CPU and {more:.0f} MB more "
        f"than Arrow's own listing of them, which takes {arrow:.1f} s = {seconds / arrow:.2f} times; requests: {kinds}",
        flush=True,
    )
    return seconds / arrow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="that the engine takes for a partition")
    parser.add_argument("--objects", type=int, default=100_000)
    arguments = parser.parse_args()
    listing(arguments.objects, arguments.objects // 20)
    share_of_storage(arguments.rows, arguments.seconds)
    share_of_storage(arguments.rows, arguments.seconds, files=50)
    share_of_storage(arguments.rows // 4, arguments.seconds / 4, partitions=4)


if __name__ == "__main__":
    main()
