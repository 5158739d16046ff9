"""The bytes of text files, and the threads that read them."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.text.stream import TextStream

# An error leaves Arrow with blocks to read ahead, on a thread of its own.
ENDS_AFTER_AN_ERROR = """
import sys
from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.partition_input import open_partition
try:
    open_partition([local_location(sys.argv[1])])
except InputUnreadableError:
    sys.exit(3)
"""


def test_closing_waits_for_a_read_that_is_under_way(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n")
    order: list[str] = []
    inside, go_on = threading.Event(), threading.Event()

    def observe(content: bytes) -> None:
        inside.set()
        go_on.wait()
        order.append("read")

    stream = TextStream(local_location(str(path)), observe)

    def close() -> None:
        stream.close()
        order.append("closed")

    reader, closer = threading.Thread(target=stream.read, args=[4]), threading.Thread(target=close)
    reader.start()
    inside.wait()
    closer.start()
    go_on.set()
    reader.join()
    closer.join()
    assert order == ["read", "closed"]


@pytest.mark.integration
def test_a_process_that_refuses_a_file_ends_as_it_means_to(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'text,b\n"')
        for _ in range(100):
            file.write(b"a\n" * 500_000)
    done = subprocess.run([sys.executable, "-c", ENDS_AFTER_AN_ERROR, str(path)], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr[-2000:]
