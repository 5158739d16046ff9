"""What the installed llama.cpp was built for, against what this machine has: what a build of one's own could gain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
# Instruction sets that speed up the matrix products of quantised models: llama.cpp's name, and flags of Linux that all
# have to be there.
INSTRUCTION_SETS: Sequence[tuple[str, str, tuple[str, ...]]] = (
    ("AVX2", "AVX2", ("avx2", "fma")),
    ("AVX512", "AVX-512", ("avx512f", "avx512bw", "avx512vl")),
    ("AVX512_VNNI", "AVX-512 VNNI", ("avx512_vnni",)),
    ("AMX_INT8", "AMX", ("amx_int8", "amx_tile")),
    ("SVE", "SVE", ("sve",)),
    ("MATMUL_INT8", "i8mm", ("i8mm",)),
)
GAIN = "a build of your own was 2.2 times as fast where we measured, see docs/gpus.md"


def built_for(system_info: str) -> list[str]:
    """Which of the instruction sets a build uses.

    Args:
        system_info: as ``xllamacpp.get_system_info()`` says it: ``CPU : SSE3 = 1 | AVX2 = 1 | ...``.
    """
    on = set(re.findall(r"(\w+) = 1", system_info))
    return [name for key, name, _ in INSTRUCTION_SETS if key in on]


def cpu_has(cpu_info: str) -> list[str]:
    """Which of them this machine's CPU has.

    Args:
        cpu_info: the content of ``/proc/cpuinfo``.
    """
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpu_info, re.MULTILINE)
    flags = set(found.group(1).split()) if found else set()
    return [name for _, name, needed in INSTRUCTION_SETS if flags.issuperset(needed)]


def describe_build(system_info: str, cpu_info: str | None = None) -> str:
    """What it was built for, what the CPU has beside that, and what to make of it, in one line.

    Args:
        system_info: as ``xllamacpp.get_system_info()`` says it.
        cpu_info: the content of ``/proc/cpuinfo``; by default this machine's, where there is one.
    """
    if cpu_info is None:
        cpu_info = CPU_INFO.read_text() if CPU_INFO.exists() else ""
    backends = [name for name in re.findall(r"(\w+) : ", system_info) if name != "CPU"]
    built = built_for(system_info)
    words = f"built for {', '.join([*backends, *built]) or 'any CPU'}"
    unused = [name for name in cpu_has(cpu_info) if name not in built]
    return f"{words}; this CPU has {' and '.join(unused)}: {GAIN}" if unused else words
