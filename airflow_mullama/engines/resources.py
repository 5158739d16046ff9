"""What this process may use of its machine: cores and memory, also inside a container with limits.

A container sees the whole machine's cores and memory. Its limits are in the control group's files
(https://docs.kernel.org/admin-guide/cgroup-v2.html): more threads than the quota allows are stopped for most of each
period, and more memory than the limit ends the process.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores this process may compute on, at least 1: its affinity, within its control group's quota."""
    # macOS has no affinity.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroup)
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def free_memory(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> int | None:
    """Bytes that can still be taken, by the machine and by the control group's limit; ``None`` if nothing says so."""
    known = [amount for amount in (_available(meminfo), _left_of_limit(cgroup)) if amount is not None]
    return min(known) if known else None


def _cpu_quota(cgroup: Path) -> float | None:
    words = _words(cgroup / "cpu.max")  # version 2: quota and period, or "max"
    if not words:
        words = _words(cgroup / "cpu/cpu.cfs_quota_us") + _words(cgroup / "cpu/cpu.cfs_period_us")
    try:
        quota, period = (int(word) for word in words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _available(meminfo: Path) -> int | None:
    words = _words(meminfo)
    try:
        return int(words[words.index("MemAvailable:") + 1]) * 1024
    except (ValueError, IndexError):
        return None


def _left_of_limit(cgroup: Path) -> int | None:
    for limit_name, used_name, stat_name in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            (limit,), (used,) = _words(cgroup / limit_name), _words(cgroup / used_name)
            left = int(limit) - int(used)
        except ValueError:  # absent, or "max"
            continue
        # Cached files count as used and are given up first.
        stat = _words(cgroup / stat_name)
        cached = int(stat[stat.index("inactive_file") + 1]) if "inactive_file" in stat else 0
        return max(0, left + cached)
    return None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
