"""Models of a store in the cache of a host: fetched once, kept while they are used, removed when room is needed."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.fs as pafs
import pytest

from airflow_mullama.cache import cache_limit
from airflow_mullama.errors import ConfigurationError, ModelCacheFullError, ModelUnavailableError
from airflow_mullama.models import cached_copies, download
from airflow_mullama.models.download import PARTIAL_SUFFIX, _boot
from airflow_mullama.models.resolve import Model, resolve_model
from airflow_mullama.storage.filesystems import Location, Resolver
from tests.latency_proxy import LatencyProxy

pytestmark = pytest.mark.integration

HEADER = b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + b"\0" * 8
SIZE = 3_000_000
# Says that it starts, fetches a model, says where it is, and uses it until its input is closed.
USE = """
import sys
print("begun", flush=True)
sys.stdin.readline()
from airflow_mullama.models.resolve import resolve_model
from tests.models.test_cached_copies import patient
print(resolve_model(sys.argv[1], patient(sys.argv[2])).path, flush=True)
sys.stdin.read()
"""


def patient(endpoint: str) -> Resolver:
    """Opens a store that is not asked again by a client on a busy machine: that would be counted."""
    filesystem = pafs.S3FileSystem(
        access_key="test", secret_key="test", endpoint_override=endpoint, region="us-east-1", request_timeout=60
    )
    return lambda url: Location(filesystem, os.fspath(url).removeprefix("s3://"), os.fspath(url))


class Store(NamedTuple):
    proxy: LatencyProxy
    bucket: Any

    def put(self, name: str, size: int = SIZE) -> bytes:
        content = HEADER + random.Random(name).randbytes(size - len(HEADER))
        with self.bucket.filesystem.open_output_stream(f"{self.bucket.bucket}/{name}") as stream:
            stream.write(content)
        self.proxy.requests.clear()
        return content

    def resolve(self, name: str) -> Model:
        return resolve_model(self.bucket.url(name), patient(self.proxy.endpoint))

    @contextmanager
    def user(self, name: str) -> Iterator[subprocess.Popen[str]]:
        """A process that uses a model once it is told to begin."""
        command = [sys.executable, "-c", USE, self.bucket.url(name), self.proxy.endpoint]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            try:
                assert process.stdout.readline() == "begun\n"
                yield process
            finally:
                process.kill()

    @property
    def fetched_bytes(self) -> int:
        return sum(request.received for request in self.proxy.requests if request.kind == "GET")


@pytest.fixture
def store(object_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("AIRFLOW_MULLAMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cached_copies, "_in_use", {})
    monkeypatch.setattr(download, "PIECE_BYTES", 500_000)
    with LatencyProxy(object_store.endpoint.removeprefix("http://")) as proxy:
        yield Store(proxy, object_store)
    for handle in cached_copies._in_use.values():
        os.close(handle)


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def path_from(process: subprocess.Popen[str]) -> Path:
    assert process.stdout
    return Path(process.stdout.readline().strip())


def test_two_tasks_at_once_fetch_a_model_once(store: Store) -> None:
    content = store.put("tiny.gguf")
    with store.user("tiny.gguf") as one, store.user("tiny.gguf") as other:
        begin(one)
        begin(other)
        path = path_from(one)
        assert path == path_from(other)
    assert path.read_bytes() == content
    assert store.fetched_bytes == SIZE


def test_a_model_in_use_is_kept_and_the_longest_unused_makes_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("used.gguf", "older.gguf", "newer.gguf", "next.gguf"):
        store.put(name)
    monkeypatch.setenv("AIRFLOW_MULLAMA_CACHE_GB", str(3.5 * SIZE / 1e9))
    with store.user("used.gguf") as process:
        begin(process)
        used = path_from(process)
        older, newer = Path(store.resolve("older.gguf").path), Path(store.resolve("newer.gguf").path)
        _end_uses()
        for lock, when in ((older.parent, 2_000), (newer.parent, 3_000), (used.parent, 1_000)):
            os.utime(lock.with_suffix(".lock"), (when, when))
        store.resolve("next.gguf")
        assert (used.exists(), older.exists(), newer.exists()) == (True, False, True)
        # Used by this process now, with which nothing else fits.
        store.resolve("newer.gguf")
        with pytest.raises(ModelCacheFullError, match=r"needs 0\.0 GB .* of which running tasks use .*run again when"):
            store.resolve("older.gguf")
        assert used.exists()
        assert newer.exists()
    _end_uses()
    store.resolve("older.gguf")  # the other process has ended
    assert not used.exists()


def _end_uses() -> None:
    """What the end of this process would do."""
    while cached_copies._in_use:
        os.close(cached_copies._in_use.popitem()[1])


def test_a_disk_that_is_too_small_is_known_before_anything_is_fetched(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("tiny.gguf")
    usage = shutil.disk_usage("/")._replace(free=cached_copies.SPARE_BYTES + SIZE - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        ModelCacheFullError, match=r"the disk of the cache '.*' has 0\.3 GB free; free space there, or set AIRFLOW_"
    ):
        store.resolve("tiny.gguf")
    assert store.fetched_bytes == 0


def test_a_download_that_was_cut_off_goes_on_where_it_was(store: Store) -> None:
    content = store.put("tiny.gguf")
    path = Path(store.resolve("tiny.gguf").path)
    path.unlink()
    path.with_name(f"{path.name}.{_boot()}{PARTIAL_SUFFIX}").write_bytes(content[:2_000_000])
    path.with_name(f"{path.name}.another{PARTIAL_SUFFIX}").write_bytes(b"?" * 2_500_000)  # of before a reboot
    store.proxy.requests.clear()
    store.resolve("tiny.gguf")
    assert path.read_bytes() == content
    assert store.fetched_bytes == 1_000_000
    assert {file.name for file in path.parent.iterdir()} == {"tiny.gguf", "tiny.gguf.sha256"}


def test_what_differs_from_the_stores_checksum_is_fetched_again(store: Store) -> None:
    content = store.put("tiny.gguf")
    path = Path(store.resolve("tiny.gguf").path)
    path.unlink()
    path.with_name(f"{path.name}.{_boot()}{PARTIAL_SUFFIX}").write_bytes(b"?" * 2_000_000)
    with pytest.raises(ModelUnavailableError, match="fetched twice and was not the same: the network or the disk"):
        store.resolve("tiny.gguf")
    store.resolve("tiny.gguf")
    assert path.read_bytes() == content


def test_a_model_that_is_replaced_while_it_is_fetched_is_not_a_copy_of_both(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = store.put("tiny.gguf")
    new = HEADER + random.Random("new").randbytes(SIZE - len(HEADER))
    path = f"{store.bucket.bucket}/tiny.gguf"
    fetch = download.Download._piece
    monkeypatch.setattr(download, "PIECES_AT_ONCE", 1)
    monkeypatch.setattr(download, "_md5_of", lambda object_: None)  # as of what was uploaded in parts

    def fetch_and_replace(self: download.Download, object_: Any, start: int) -> bytes:
        piece = fetch(self, object_, start)
        with store.bucket.filesystem.open_output_stream(path) as stream:
            stream.write(new)
        return piece

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(download.Download, "_piece", fetch_and_replace)
        with pytest.raises(ModelUnavailableError, match=r"was replaced in its store while it was .*run the task"):
            store.resolve("tiny.gguf")
    assert Path(store.resolve("tiny.gguf").path).read_bytes() == new != old


def test_what_does_not_fit_into_an_empty_cache_removes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("small.gguf")
    store.put("large.gguf", 3 * SIZE)
    small = Path(store.resolve("small.gguf").path)
    _end_uses()
    monkeypatch.setenv("AIRFLOW_MULLAMA_CACHE_GB", str(2 * SIZE / 1e9))
    with pytest.raises(ModelCacheFullError, match=r"whatever else is removed from it; raise the limit\.$"):
        store.resolve("large.gguf")
    assert small.exists()


def test_a_copy_whose_lock_another_user_has_is_not_removed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("theirs.gguf", "ours.gguf", "next.gguf"):
        store.put(name)
    theirs, ours = Path(store.resolve("theirs.gguf").path), Path(store.resolve("ours.gguf").path)
    _end_uses()
    for copy, when in ((theirs, 1_000), (ours, 2_000)):
        os.utime(copy.parent.with_suffix(".lock"), (when, when))
    lock = theirs.parent.with_suffix(".lock")
    lock.unlink()
    lock.mkdir()  # which nobody opens, root neither
    os.utime(lock, (1_000, 1_000))
    monkeypatch.setenv("AIRFLOW_MULLAMA_CACHE_GB", str(2.5 * SIZE / 1e9))
    store.resolve("next.gguf")
    assert (theirs.exists(), ours.exists()) == (True, False)


def test_a_copy_that_was_changed_is_fetched_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    content = store.put("tiny.gguf")
    path = Path(store.resolve("tiny.gguf").path)
    damaged = bytearray(content)
    damaged[SIZE // 2] ^= 1
    path.write_bytes(damaged)
    store.resolve("tiny.gguf")
    assert path.read_bytes() == content
    assert "it was changed, or its disk is failing; fetching it again" in caplog.text


def test_an_etag_that_is_no_checksum_costs_a_second_download_and_is_no_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("tiny.gguf")
    monkeypatch.setattr(download, "_md5_of", lambda object_: "0" * 32)  # as with a key of the customer's
    store.resolve("tiny.gguf")
    assert store.fetched_bytes == 2 * SIZE


def test_a_copy_on_a_disk_that_cannot_be_written_is_used(store: Store, tmp_path: Path) -> None:
    store.put("tiny.gguf")
    path = Path(store.resolve("tiny.gguf").path)
    _end_uses()
    lock = path.parent.with_suffix(".lock")
    lock.unlink()
    lock.mkdir()  # which nobody opens, root neither
    assert Path(store.resolve("tiny.gguf").path) == path


@pytest.mark.parametrize("limit", ["-1", "0", "many", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_MULLAMA_CACHE_GB", limit)
    with pytest.raises(ConfigurationError, match="must be a number of gigabytes above 0"):
        cache_limit()
