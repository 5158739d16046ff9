"""Files of an object store: read as they are, in few requests."""

from __future__ import annotations

import gzip
import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from airflow_mullama.storage import stored_file
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.parquet import stream as parquet_stream
from airflow_mullama.storage.parquet.input import open_input
from airflow_mullama.storage.parquet.stream import ParquetStream
from airflow_mullama.storage.stored_file import FETCHED_AT_ONCE, TAIL_BYTES, StoredFile
from airflow_mullama.storage.text.stream import TextStream
from tests.latency_proxy import LatencyProxy

pytestmark = pytest.mark.integration

ROWS = 6000


@pytest.fixture
def proxy(object_store: Any) -> Iterator[LatencyProxy]:
    with LatencyProxy(object_store.endpoint.removeprefix("http://")) as proxy:
        yield proxy


@pytest.fixture
def behind(object_store: Any, proxy: LatencyProxy) -> Callable[[str], Location]:
    """A place in the test's bucket whose requests the proxy counts."""
    filesystem = proxy.filesystem()
    return lambda name: replace(object_store.resolve(object_store.url(name)), filesystem=filesystem)


def content_of(location: Location, size: int) -> bytes:
    content = random.Random(7).randbytes(size)
    with location.filesystem.open_output_stream(location.path) as stream:
        stream.write(content)
    return content


def wide_table() -> pa.Table:
    """Texts in a dictionary, texts that are none, numbers, lists."""
    noise = random.Random(11)
    return pa.table(
        {
            "id": pa.array(range(ROWS)),
            "kind": [f"kind {number % 7}" for number in range(ROWS)],
            "text": [noise.randbytes(60).hex() for _ in range(ROWS)],
            "note": [noise.randbytes(20).hex() for _ in range(ROWS)],
            "tags": [[str(number), "x"] for number in range(ROWS)],
        }
    )


def test_what_is_read_is_the_file_whatever_is_announced(
    behind: Callable[[str], Location], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_file, "REQUEST_BYTES", 100_000)
    monkeypatch.setattr(stored_file, "SMALLEST_WINDOW_BYTES", 10_000)
    location = behind("noise.bin")
    content = content_of(location, TAIL_BYTES + 500_000)
    with StoredFile(location) as file:
        file.hold(0, [(1_000, 150_000), (160_000, 260_000)])
        file.follow(1, [(300_000, 390_000), (390_000, len(content))], held_bytes=60_000)
        places = random.Random(3)
        for start in [0, 999, 149_999, 299_990, *(places.randrange(len(content)) for _ in range(40)), len(content)]:
            size = places.choice([1, 300, 20_000, 300_000])
            file.seek(start)
            assert file.read(size) == content[start : start + size]
            assert file.tell() == min(len(content), start + size)
        file.release(0)
        file.release(1)
        file.seek(0)
        assert file.read() == content


def test_what_is_held_is_fetched_once(behind: Callable[[str], Location], proxy: LatencyProxy) -> None:
    location = behind("noise.bin")
    content = content_of(location, TAIL_BYTES + 300_000)
    proxy.requests.clear()
    with StoredFile(location) as file:
        file.hold(0, [(0, 100_000), (120_000, 300_000)])
        for start in [*range(0, 100_000, 1_000), len(content) - 1_000]:
            file.seek(start)
            assert file.read(1_000) == content[start : start + 1_000]
    assert proxy.counts() == {"HEAD": 1, "GET": 2}


def test_the_rows_of_a_store_are_those_of_a_disk(
    behind: Callable[[str], Location], monkeypatch: pytest.MonkeyPatch
) -> None:
    location = behind("wide.parquet")
    table = wide_table()
    pq.write_table(table, location.path, filesystem=location.filesystem, row_group_size=2500)
    columns = ["text", "kind", "tags"]
    for most_held in (parquet_stream.GROUP_AHEAD_BYTES, 1_000):
        monkeypatch.setattr(parquet_stream, "GROUP_AHEAD_BYTES", most_held)
        with ParquetStream(location) as file:
            assert pa.Table.from_batches(file.batches()).equals(table)
        with ParquetStream(location, columns) as file:
            batches = list(file.batches())
        assert pa.Table.from_batches(batches).select(columns).equals(table.select(columns))


def test_a_row_group_costs_one_request_however_many_columns_it_has(
    behind: Callable[[str], Location], proxy: LatencyProxy
) -> None:
    location = behind("wide.parquet")
    table = wide_table()
    for name in [f"more {number}" for number in range(20)]:
        table = table.append_column(name, [[os.urandom(8).hex() for _ in range(ROWS)]])
    pq.write_table(table, location.path, filesystem=location.filesystem, row_group_size=3000)
    proxy.requests.clear()
    with ParquetStream(location) as file:
        assert sum(batch.num_rows for batch in file.batches()) == ROWS
    assert proxy.counts() == {"HEAD": 1, "GET": 3}


def test_the_files_of_a_partition_are_opened_side_by_side(object_store: Any) -> None:
    for number in range(12):
        object_store.write(object_store.url("day", f"{number:02d}.parquet"), pa.table({"text": ["a", "b"]}))
    with LatencyProxy(object_store.endpoint.removeprefix("http://"), together=10) as proxy:
        filesystem = pafs.S3FileSystem(
            access_key="test", secret_key="test", endpoint_override=proxy.endpoint, region="us-east-1"
        )
        names = [object_store.url("day", f"{number:02d}.parquet") for number in range(12)]
        files = [replace(object_store.resolve(name), filesystem=filesystem) for name in names]
        source = open_input(files)
        assert proxy.counts() == {"HEAD": 12, "GET": 12}
        assert sum(batch.num_rows for batch in source.batches(["text"])) == 24
        assert proxy.counts() == {"HEAD": 24, "GET": 24}


def test_a_store_says_when_a_file_is_opened_what_it_says_when_it_is_asked(behind: Callable[[str], Location]) -> None:
    location = behind("noise.bin")
    content_of(location, 1000)
    info = location.info()
    with StoredFile(location) as file:
        assert file.state == (info.size, info.mtime_ns)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_text_is_read_ahead_too(behind: Callable[[str], Location], proxy: LatencyProxy, name: str) -> None:
    location = behind(name)
    text = b"".join(b'{"text": "%d"}\n' % number for number in range(400_000))
    content = gzip.compress(text, 1) if name.endswith(".gz") else text
    with location.filesystem.open_output_stream(location.path, compression=None) as stream:
        stream.write(content)
    proxy.requests.clear()
    with TextStream(location) as rows:
        assert b"".join(iter(lambda: rows.read(64 << 10), b"")) == text + b"\n"
    assert proxy.counts()["GET"] <= 2 + len(content) // stored_file.REQUEST_BYTES


class Gate(io.BytesIO):
    """A file that is read only once it is said to be open."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.open = threading.Event()
        self.reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.open.wait()
        self.reads += 1
        return super().read(size)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate(random.Random(3).randbytes(TAIL_BYTES + 500_000))
    yield gate
    gate.open.set()


def behind_gate(gate: Gate) -> Location:
    filesystem: Any = SimpleNamespace(open_input_file=lambda path: pa.PythonFile(gate, mode="r"))
    return Location(filesystem, "wide.parquet", "memory://wide.parquet")


def fetching() -> int:
    return sum(thread.name == "mullama-fetch" for thread in threading.enumerate())


def test_a_wide_table_takes_few_threads(gate: Gate, eventually: Any) -> None:
    eventually(lambda: not fetching())
    with StoredFile(behind_gate(gate)) as file:
        parts = [(start, start + 500) for start in range(0, 500_000, 1_000)]
        file.follow(0, parts, 1 << 20)
        assert fetching() == FETCHED_AT_ONCE
        gate.open.set()
        assert file.read() == gate.getvalue()


def test_a_file_that_is_closed_early_is_fetched_no_further(gate: Gate, eventually: Any) -> None:
    eventually(lambda: not fetching())
    file = StoredFile(behind_gate(gate))
    file.follow(0, [(start, start + 500) for start in range(0, 500_000, 1_000)], 1 << 20)
    file.close()
    assert not gate.closed  # while it is read
    gate.open.set()
    eventually(lambda: not fetching())
    assert gate.reads == FETCHED_AT_ONCE
    assert gate.closed
