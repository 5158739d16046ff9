"""What a task asks for: the argument ``gpus``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from airflow_mullama.errors import ConfigurationError, GpuNotAvailableError
from airflow_mullama.gpus.devices import Gpu, Inventory, find_gpu, is_id

Gpus: TypeAlias = "str | int | Sequence[int | str] | None"

FORMS = "None, 'auto', 'all', a number from 1 on, or a list of GPU numbers and UUIDs"


@dataclass(frozen=True)
class GpuRequest:
    """How many GPUs, or which.

    Args:
        gpus: ``None``: no lease, the environment stays as it is. ``"auto"``: one that is free, or none on a machine
            without GPUs. A number: that many. ``"all"``: all this process may use. A list: these, by number or UUID.

    Raises:
        ConfigurationError: anything else.
    """

    gpus: Gpus = None

    def __post_init__(self) -> None:
        gpus = self.gpus
        if gpus is None or gpus in ("auto", "all"):
            return
        if isinstance(gpus, int) and not isinstance(gpus, bool) and gpus >= 1:
            return
        if isinstance(gpus, Sequence) and not isinstance(gpus, (str, bytes)) and gpus:
            for wanted in gpus:
                if isinstance(wanted, bool) or not isinstance(wanted, (int, str)) or not is_id(str(wanted)):
                    raise ConfigurationError(
                        f"gpus has {wanted!r}; its entries must be GPU numbers or UUIDs such as 'GPU-5d5ba0d6'."
                    )
            object.__setattr__(self, "gpus", tuple(gpus))
            return
        raise ConfigurationError(f"gpus is {gpus!r}; it must be {FORMS}.")

    def candidates(self, inventory: Inventory) -> tuple[tuple[Gpu, ...], int]:
        """The GPUs that would do, and how many of them are needed.

        Raises:
            GpuNotAvailableError: more are asked for than there are, or some that are not there.
        """
        gpus, available = self.gpus, inventory.gpus
        if gpus is None:
            return (), 0
        if isinstance(gpus, str):  # may be nothing: a machine without GPUs computes on its CPU, as without a lease
            return available, min(1, len(available)) if gpus == "auto" else len(available)
        if isinstance(gpus, int):
            if gpus > len(available):
                raise GpuNotAvailableError(
                    f"gpus={gpus} and this task may use {_listed(inventory)}; ask for fewer, or make more visible."
                )
            return available, gpus
        chosen: dict[Gpu, None] = {}
        for wanted in gpus:
            found = find_gpu(available, str(wanted))
            if found is None:
                raise GpuNotAvailableError(
                    f"gpus has {wanted!r} and this task may use {_listed(inventory)}; name one of these."
                )
            chosen[found] = None
        return tuple(chosen), len(chosen)


def _listed(inventory: Inventory) -> str:
    names = ", ".join(f"{gpu} = {gpu.id}" for gpu in inventory.gpus) or "no GPU"
    return f"{names} ({inventory.reason})"
