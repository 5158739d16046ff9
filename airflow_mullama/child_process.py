"""Child processes of this package: what they may import, what they see of the environment, and when they end.

Nothing is imported from the current directory, which ``python -m`` and ``python -c`` put before everything else: the
user may be in a folder of data, beside somebody else's ``queue.py`` or ``numpy.py``.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from collections.abc import Collection
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
# `python -P -m`, which Python 3.10 does not have. Up to the first statement nothing is looked for in the current
# directory.
RUN_MODULE = (
    "import sys; sys.path[:1] == [''] and sys.path.pop(0); del sys.argv[0]; "
    "from runpy import run_module; run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)

# What libraries and drivers that compute read, beside what every program needs. An engine's process parses native
# formats of strangers: connections, keys and addresses of databases have no place in it.
NEEDED_VARIABLES = frozenset(
    {
        "AIRFLOW_HOME",
        "HOME",
        "LANG",
        "LANGUAGE",
        "LOGNAME",
        "PATH",
        "TEMP",
        "TMP",
        "TMPDIR",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
    }
)
NEEDED_PREFIXES = (
    # this package, Python, the C library and its loaders
    *("AIRFLOW_MULLAMA_", "PYTHON", "LC_", "LD_", "DYLD_", "GLIBC_", "MALLOC_", "CONDA_", "XDG_"),
    # llama.cpp, the mullama bindings, Arrow, and what they compute with on a CPU
    *("GGML_", "LLAMA_", "MULLAMA_", "ARROW_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "DNNL_"),
    # GPUs: NVIDIA, AMD, Intel, Vulkan, Apple, Huawei, Moore Threads
    *("CUDA_", "NVIDIA_", "NV_", "CUBLAS_", "NCCL_", "HIP_", "HSA_", "ROCR_", "ROCM_", "ROCBLAS_", "AMD_", "GPU_"),
    *("SYCL_", "UR_", "ONEAPI_", "ZE_", "ZES_", "VK_", "METAL_", "MTL_", "ASCEND_", "MUSA_"),
)
# Whatever its name begins with: NVIDIA_API_KEY is none of an engine's business.
SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
# An empty entry of these means the current directory.
LIBRARY_PATHS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")


def module_command(module: str, *arguments: str, before: str = "") -> list[str]:
    """The command that runs a module as ``python -m`` does, without importing from the current directory.

    Args:
        module: its name.
        arguments: what it finds in ``sys.argv``.
        before: statements that run first; they may import what is built into Python.
    """
    return [sys.executable, "-c", before + RUN_MODULE, module, *arguments]


def import_path() -> str:
    """Where this process imports from, as ``PYTHONPATH``, without its current directory.

    That directory is left in, behind all others, where the package itself lies in it.
    """
    try:
        current = os.path.realpath(os.getcwd())
    except FileNotFoundError:  # it was removed
        current = ""
    entries = [os.path.abspath(entry) for entry in sys.path if entry and os.path.realpath(entry) != current]
    package = str(Path(__file__).parents[1])
    return os.pathsep.join(entries if package in entries else [*entries, package])


def needed_environment(further: Collection[str] = ()) -> dict[str, str]:
    """The environment of a process that hosts an engine: what computing needs, and nothing of Airflow's.

    Args:
        further: names of variables that the engine reads itself.
    """
    environment = {name: value for name, value in os.environ.items() if name in further or _is_needed(name)}
    for name in LIBRARY_PATHS:
        if name in environment:
            environment[name] = os.pathsep.join(entry for entry in environment[name].split(os.pathsep) if entry)
    environment["PYTHONPATH"] = import_path()
    environment["PYTHONUNBUFFERED"] = "1"
    # llama.cpp's OpenMP threads wait for each other by spinning; where other work shares the cores, that made embedding
    # ten times slower (measured), and sleeping costs nothing that could be measured.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The threads that NumPy's OpenBLAS starts when it is imported, one for each core, spin for a tenth of a second:
    # a third of the CPU time that a worker took to start (measured). 2^4 cycles is the least there is.
    environment.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    # When llama.cpp aborts, it calls the machine's debugger, if there is one: slow, and its frames would be taken for
    # the engine's last words.
    environment.setdefault("GGML_NO_BACKTRACE", "1")
    return environment


def _is_needed(name: str) -> bool:
    if any(word in name for word in SECRET_WORDS):
        return False
    return name in NEEDED_VARIABLES or name.startswith(NEEDED_PREFIXES)


def end_with_parent(pipe: int) -> None:
    """Have the kernel kill this process with the thread that started it, even where no Python code can run.

    Only Linux can: elsewhere a process ends when it sees its closed pipe.

    Args:
        pipe: descriptor of a pipe whose other end the parent alone holds. If that is closed already, the kernel was
            asked too late, and this process ends now.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    poll = select.poll()
    poll.register(pipe, 0)  # a hang-up is always reported
    if poll.poll(0):
        os._exit(1)
