"""The GPUs that this process may use: what the driver lists, less what the environment takes away.

The environment follows CUDA's rules:
https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#cuda-environment-variables
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Instead of what nvidia-smi says: ids such as "0,1" or "GPU-5d5b…,GPU-8c1a…"; empty for none.
DEVICES_VARIABLE = "AIRFLOW_MULLAMA_GPUS"
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
CONTAINER_VARIABLE = "NVIDIA_VISIBLE_DEVICES"

# Without its persistence daemon the driver wakes every GPU first, which takes seconds for each.
NVIDIA_SMI_SECONDS = 60.0
MIG_NAME = "MIG instance"

_GPU_LINE = re.compile(r"GPU (\d+): (.+) \(UUID: (GPU-[^)]+)\)")
_MIG_LINE = re.compile(r"MIG (\S+) +Device +\d+: \(UUID: (MIG-[^)]+)\)")
_ID = re.compile(r"[0-9]+|(GPU|MIG)-[0-9A-Za-z/-]+")


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a part of one (MIG).

    Args:
        id: what CUDA_VISIBLE_DEVICES takes: a UUID, or a number where no more is known.
        index: the driver's number; ``None`` for a further part of a GPU.
        name: the model's.
    """

    id: str
    index: int | None = None
    name: str = ""

    def __str__(self) -> str:
        number = self.id if self.index is None else f"GPU {self.index}"
        return f"{number} ({self.name})" if self.name else number

    def answers_to(self, wanted: str) -> bool:
        """Whether an id means this one: its number, its UUID or the beginning of it."""
        if wanted.isdecimal():
            return self.index == int(wanted)
        return self.id.lower().startswith(wanted.lower())


@dataclass(frozen=True)
class Inventory:
    """The GPUs that this process may use.

    Args:
        gpus: in the order CUDA numbers them.
        reason: where they come from, or why there is none, for people.
    """

    gpus: tuple[Gpu, ...]
    reason: str


def list_gpus(environment: Mapping[str, str] | None = None) -> Inventory:
    """List the GPUs that this process may use. Never raises for a machine without any.

    Args:
        environment: variables to go by; by default this process's own.
    """
    environment = os.environ if environment is None else environment
    inventory = _all_gpus(environment)
    if environment.get(CONTAINER_VARIABLE, "").strip().lower() == "none":
        return Inventory((), f"{CONTAINER_VARIABLE} is 'none'")
    ids = visible_ids(environment.get(VISIBLE_VARIABLE))
    if ids is None or not inventory.gpus:
        return inventory
    gpus = restrict(inventory.gpus, ids)
    return Inventory(gpus, f"{VISIBLE_VARIABLE} is {environment[VISIBLE_VARIABLE]!r}")


def is_id(text: str) -> bool:
    """Whether a text is a GPU's number, UUID or the beginning of one."""
    return _ID.fullmatch(text) is not None


def visible_ids(value: str | None) -> tuple[str, ...] | None:
    """The ids in CUDA_VISIBLE_DEVICES, up to the first that is not one: from there on CUDA sees no more.

    ``None`` stands for no restriction; an empty value and ``-1`` leave nothing.
    """
    if value is None:
        return None
    ids: list[str] = []
    for part in value.split(","):
        if not is_id(part.strip()):
            break
        ids.append(part.strip())
    return tuple(ids)


def restrict(gpus: Sequence[Gpu], ids: Sequence[str]) -> tuple[Gpu, ...]:
    """The GPUs that ids stand for, in the order of the ids, up to the first id that matches none, or several."""
    chosen: list[Gpu] = []
    for wanted in ids:
        found = find_gpu(gpus, wanted)
        if found is None:
            break
        if found not in chosen:
            chosen.append(found)
    return tuple(chosen)


def find_gpu(gpus: Sequence[Gpu], wanted: str) -> Gpu | None:
    """The one GPU that an id means, or ``None``."""
    found = [gpu for gpu in gpus if gpu.answers_to(wanted)]
    if len(found) == 1:
        return found[0]
    if not found and wanted.startswith("MIG-"):
        return Gpu(wanted, name=MIG_NAME)  # drivers before 470 list the parts of a GPU under other names
    return None


def worker_environment(gpu: Gpu) -> dict[str, str]:
    """The variables with which a process sees this GPU alone.

    Numbers are the driver's (CUDA's own default order puts the fastest first). ROCm reads HIP_VISIBLE_DEVICES;
    ROCR_VISIBLE_DEVICES stays as it is, because ROCm would apply one list to what the other leaves.
    """
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", VISIBLE_VARIABLE: gpu.id, "HIP_VISIBLE_DEVICES": gpu.id}


def _all_gpus(environment: Mapping[str, str]) -> Inventory:
    named = environment.get(DEVICES_VARIABLE)
    if named is not None:
        return Inventory(_named_gpus(visible_ids(named) or ()), f"{DEVICES_VARIABLE} is {named!r}")
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=NVIDIA_SMI_SECONDS,
            check=False,
            env=dict(environment),
        )
    except FileNotFoundError:
        return Inventory((), "there is no nvidia-smi")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Inventory((), f"nvidia-smi does not work: {error}")
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
        return Inventory((), f"nvidia-smi says: {lines[0].strip()}")
    return Inventory(parse_nvidia_smi(done.stdout), "nvidia-smi lists them")


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """The GPUs in the output of ``nvidia-smi -L``; one that is cut into parts (MIG) is given as its parts."""
    gpus: list[Gpu] = []
    whole: Gpu | None = None
    for line in text.splitlines():
        if found := _GPU_LINE.fullmatch(line.strip()):
            whole = Gpu(found[3], int(found[1]), found[2])
            gpus.append(whole)
        elif (found := _MIG_LINE.fullmatch(line.strip())) and whole is not None:
            name = f"{whole.name}, MIG {found[1]}"
            if gpus[-1] is whole:
                gpus[-1] = Gpu(found[2], whole.index, name)  # a number means the first part, as for CUDA
            else:
                gpus.append(Gpu(found[2], None, name))
    return tuple(gpus)


def _named_gpus(ids: Sequence[str]) -> tuple[Gpu, ...]:
    return tuple(Gpu(name, int(name) if name.isdecimal() else place) for place, name in enumerate(dict.fromkeys(ids)))
