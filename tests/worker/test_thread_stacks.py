"""How deep the stacks of new threads are."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from airflow_mullama.worker.thread_stacks import ATTRIBUTES_BYTES, DEEP_STACK_BYTES, deep_stacks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the setting is one of Linux's C libraries")

USUAL_BYTES = 64 << 20  # more than any system's default


def stack_bytes_of_a_new_thread() -> int:
    found: list[int] = []

    def measure() -> None:
        library, attributes = ctypes.CDLL(None), ctypes.create_string_buffer(ATTRIBUTES_BYTES)
        library.pthread_self.restype = ctypes.c_ulong
        library.pthread_getattr_np(ctypes.c_ulong(library.pthread_self()), attributes)
        size = ctypes.c_size_t()
        library.pthread_attr_getstacksize(attributes, ctypes.byref(size))
        found.append(size.value)

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    return found[0]


def test_threads_that_start_within_are_deep_and_later_ones_are_not() -> None:
    with deep_stacks():
        assert stack_bytes_of_a_new_thread() >= DEEP_STACK_BYTES
    assert stack_bytes_of_a_new_thread() < USUAL_BYTES


def test_where_a_limit_counts_addresses_nothing_changes() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r});"
        "import test_thread_stacks as here;\n"
        f"with here.deep_stacks(): assert here.stack_bytes_of_a_new_thread() < {USUAL_BYTES}"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (64 << 30, 64 << 30))

    subprocess.run([sys.executable, "-c", program], check=True, preexec_fn=limit)
