"""What the engine ``mullama`` is started with: the user's options, and sound values for what they leave out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from airflow_mullama.arguments import Check, Whole
from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.engines.model_checks import row_context
from airflow_mullama.engines.resources import usable_cores
from airflow_mullama.errors import GpuNotAvailableError
from airflow_mullama.models.gguf_header import GgufHeader

# Outside of these ranges the bindings abort the process (n_batch 0) or allocate what nobody asked for (n_ctx 0).
CHECKS: Mapping[str, Check] = {
    "n_ctx": Whole(32, 1_048_576),
    "n_batch": Whole(32, 65_536),
    "n_gpu_layers": Whole(-1, 10_000),
    "n_threads": Whole(1, 1024),
    "n_workers": Whole(1, 64),
}
OUTPUT_OPTIONS = frozenset({"n_ctx"})

DEFAULT_N_CTX = 4096
DEFAULT_N_BATCH = 2048
# The bindings take -1 for "none"; any number beyond a model's layers means all of them.
ALL_LAYERS = 999


@dataclass(frozen=True)
class MullamaSettings:
    """The bindings' settings, all decided.

    Args:
        n_ctx: tokens of one row, prompt and answer. The bindings round it up; rows do not get the difference.
        n_batch: tokens evaluated at once.
        n_gpu_layers: as the bindings understand it: 0 for none, a large number for all.
        n_threads: of this worker.
        notes: warnings for the task's log.
    """

    n_ctx: int
    n_batch: int
    n_gpu_layers: int
    n_threads: int
    notes: tuple[str, ...]


def choose_settings(settings: EngineSettings, header: GgufHeader, *, sees_gpu: bool) -> MullamaSettings:
    """Decide every setting.

    Args:
        settings: the job's.
        header: the model's.
        sees_gpu: what ``mullama.supports_gpu_offload()`` says.

    Raises:
        GpuNotAvailableError: ``require_gpu``, and the bindings see none.
    """
    options = settings.options
    notes: list[str] = []
    asked = options.get("n_ctx")
    n_ctx = row_context(None if asked is None else int(asked), header, DEFAULT_N_CTX, notes)
    return MullamaSettings(
        n_ctx=n_ctx,
        n_batch=int(options.get("n_batch") or DEFAULT_N_BATCH),
        n_gpu_layers=_gpu_layers(settings, sees_gpu, notes),
        n_threads=int(options.get("n_threads") or _share_of_cores(settings.workers)),
        notes=tuple(notes),
    )


def _share_of_cores(workers: int) -> int:
    # One core is left to everything else: llama.cpp's threads wait for each other by spinning.
    return max(1, (usable_cores() - 1) // workers)


def _gpu_layers(settings: EngineSettings, sees_gpu: bool, notes: list[str]) -> int:
    asked = settings.options.get("n_gpu_layers")
    if sees_gpu:
        return ALL_LAYERS if asked in (None, -1) else int(asked)
    sentence = (
        "the installed mullama sees no GPU (mullama.supports_gpu_offload() says no): build it for your GPU, or set "
        "n_gpu_layers to 0 to compute on the CPU on purpose"
    )
    if settings.require_gpu:
        raise GpuNotAvailableError(f"require_gpu=True, and {sentence} (and leave require_gpu out).")
    if asked:
        notes.append(f"n_gpu_layers is {asked}, and {sentence}")
    return 0
