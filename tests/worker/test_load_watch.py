"""What ends a worker whose engine does not get ready."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections.abc import Iterator

import pytest

from airflow_mullama.worker.load_watch import LoadWatch, own_memory

ONE_GB = 1 << 30
TAKES = "import sys; text = bytearray(b'x' * {size}); print('taken', flush=True); sys.stdin.read()"


@pytest.fixture
def large_process() -> Iterator[int]:
    """One with 64 MB of its own."""
    command = [sys.executable, "-c", TAKES.format(size=64 << 20)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_a_start_beyond_its_time_is_given_up_once() -> None:
    reasons: queue.Queue[str] = queue.Queue()
    LoadWatch(os.getpid(), 0.3, lambda: None, reasons.put)
    assert "load_timeout=0.3 s" in reasons.get(timeout=30)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what memory is a process's own")
def test_a_start_with_more_memory_than_the_model_explains_is_given_up(large_process: int) -> None:
    reasons: queue.Queue[str] = queue.Queue()
    LoadWatch(large_process, 600.0, lambda: 32 << 20, reasons.put)
    assert "had 0.1 GB of its own, where weights and context explain 0.0 GB" in reasons.get(timeout=30)
    assert 64 << 20 <= own_memory(large_process) < ONE_GB


def test_a_start_that_is_over_is_left_alone(large_process: int) -> None:
    reasons: queue.SimpleQueue[str] = queue.SimpleQueue()
    watch = LoadWatch(large_process, 0.0, lambda: 0, reasons.put)
    watch.over()
    watch.join()
    assert reasons.empty()


def test_a_process_that_is_gone_has_no_memory() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert own_memory(process.pid) == 0
