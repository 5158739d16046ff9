from __future__ import annotations

import os
from pathlib import Path

import pytest

from airflow_mullama.engines.resources import free_memory, usable_cores

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, CORES),
        ({"cpu.max": "max 100000\n"}, CORES),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "nonsense"}, CORES),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, CORES),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_cores_are_those_of_the_quota(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert usable_cores(write(tmp_path, files)) == expected


def test_free_memory_is_the_smaller_of_what_machine_and_container_have_left(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       32000000 kB\nMemAvailable:    8000000 kB\n")
    machine = 8_000_000 * 1024
    assert free_memory(tmp_path / "none", meminfo) == machine
    unlimited = write(tmp_path / "a", {"memory.max": "max", "memory.current": "5", "memory.stat": ""})
    assert free_memory(unlimited, meminfo) == machine
    limited = {"memory.max": "3000", "memory.current": "2500", "memory.stat": "anon 9\ninactive_file 700\n"}
    assert free_memory(write(tmp_path / "b", limited), meminfo) == 1200
    older = {f"memory/memory.{name}": value for name, value in (("limit_in_bytes", "900"), ("usage_in_bytes", "950"))}
    assert free_memory(write(tmp_path / "c", older), meminfo) == 0
    assert free_memory(tmp_path / "none", tmp_path / "none") is None


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="only Linux says so")
def test_this_machine_has_some() -> None:
    assert (free_memory() or 0) > 1 << 20
