"""What the engine ``sentence_transformers`` is started with: the user's options, and values for what they leave out."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_mullama.arguments import Check, OfType, OneOf, Whole
from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.engines.resources import usable_cores
from airflow_mullama.errors import ConfigurationError, GpuNotAvailableError

CHECKS: Mapping[str, Check] = {
    "device": OfType(str, "a text such as 'cpu', 'cuda', 'cuda:1' or 'mps'"),
    "dtype": OneOf(("auto", "float32", "float16", "bfloat16")),
    "backend": OneOf(("torch", "onnx", "openvino")),
    "batch_tokens": Whole(1, 100_000_000),
    "prompt": OfType(str, "a text, such as 'query: '"),
    "prompt_name": OfType(str, "the name of one of the model's prompts, such as 'query'"),
    "trust_remote_code": OneOf((False, True)),
    "n_threads": Whole(1, 1024),
}
# The device is none of them: what it changes of a vector is rounding.
OUTPUT_OPTIONS = frozenset({"backend", "dtype", "prompt", "prompt_name"})

# Padded tokens of one call: for each thread of a CPU, where more of them leave its caches, and for a GPU, which is not
# busy with fewer.
CPU_BATCH_TOKENS = 1024
GPU_BATCH_TOKENS = 16_384
# Rows of one call, however short.
MOST_ROWS = 1024
# Rows among which like lengths are looked for.
CPU_WINDOW = 1024
GPU_WINDOW = 4096


@dataclass(frozen=True)
class TorchSettings:
    """All decided.

    Args:
        device: as PyTorch names it.
        device_words: for people.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        backend: ``torch``, ``onnx`` or ``openvino``.
        batch_tokens: padded tokens of one call.
        rows_per_call: rows of one call at most.
        window: rows in flight.
        n_threads: of this worker, on a CPU.
        notes: warnings for the task's log.
    """

    device: str
    device_words: str
    dtype: str
    backend: str
    batch_tokens: int
    rows_per_call: int
    window: int
    n_threads: int
    notes: tuple[str, ...] = ()

    @property
    def on_cpu(self) -> bool:
        """Whether it computes on a CPU."""
        return self.device == "cpu"

    @property
    def words(self) -> str:
        """In one line, for people."""
        threads = f", {self.n_threads} thread{'s' if self.n_threads > 1 else ''}" if self.on_cpu else ""
        rows = "one row a call" if self.rows_per_call == 1 else f"up to {self.batch_tokens} tokens a call"
        return f"{self.backend}, {self.dtype}{threads}, {rows}"


def choose_settings(settings: EngineSettings, torch: Any, model_dtype: str | None) -> TorchSettings:
    """Decide every setting.

    Args:
        settings: the job's.
        torch: the module.
        model_dtype: what the model's weights are stored as, where it says so.

    Raises:
        GpuNotAvailableError: ``require_gpu``, and PyTorch sees none.
        ConfigurationError: there is no such device.
    """
    options = settings.options
    device, notes = _choose_device(settings, torch)
    on_cpu = device == "cpu"
    asked = str(options.get("dtype", "auto"))
    half = "bfloat16" if model_dtype == "bfloat16" else "float16"  # trained in the one, numbers may overflow the other
    backend = str(options.get("backend", "torch"))
    n_threads = int(options.get("n_threads") or max(1, (usable_cores() - 1) // settings.workers))
    dtype = asked if asked != "auto" else "float32" if on_cpu or backend != "torch" else half
    return TorchSettings(
        device=device,
        device_words=_device_words(device, torch),
        dtype=dtype,
        backend=backend,
        batch_tokens=int(options.get("batch_tokens") or (CPU_BATCH_TOKENS * n_threads if on_cpu else GPU_BATCH_TOKENS)),
        rows_per_call=1 if settings.one_at_a_time else MOST_ROWS,
        window=CPU_WINDOW if on_cpu else GPU_WINDOW,
        n_threads=n_threads,
        notes=tuple(notes),
    )


def _choose_device(settings: EngineSettings, torch: Any) -> tuple[str, list[str]]:
    asked = settings.options.get("device")
    seen = _devices_seen(torch)
    device = str(asked) if asked is not None else seen[0]
    kind, _, number = device.partition(":")
    if kind not in {one.partition(":")[0] for one in seen} or (number and device not in seen):
        raise ConfigurationError(
            f"engine_options['device'] is {device!r}, and PyTorch {torch.__version__} sees here: {', '.join(seen)}."
        )
    if kind != "cpu":
        return device, []
    why = (
        "engine_options['device'] is 'cpu'"
        if asked is not None
        else f"PyTorch {torch.__version__} sees no GPU: install the build for yours (https://pytorch.org/get-started)"
    )
    if settings.require_gpu:
        raise GpuNotAvailableError(f"require_gpu=True, and {why}; or leave require_gpu out to compute on the CPU.")
    # A GPU that was leased for this worker, and that PyTorch does not see.
    leased = os.environ.get("CUDA_VISIBLE_DEVICES") or os.environ.get("HIP_VISIBLE_DEVICES")
    return device, [f"a GPU is there for this worker, and {why}"] if leased else []


def _devices_seen(torch: Any) -> list[str]:
    """The best first; the CPU last, always."""
    seen: list[str] = []
    for kind in ("cuda", "xpu"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            seen += [kind, *(f"{kind}:{number}" for number in range(module.device_count()))]
    if torch.backends.mps.is_available():
        seen.append("mps")
    return [*seen, "cpu"]


def _device_words(device: str, torch: Any) -> str:
    kind, _, number = device.partition(":")
    if kind == "cuda":
        return f"{device} ({torch.cuda.get_device_name(int(number or 0))})"
    return "CPU" if kind == "cpu" else device


def variables(options: Mapping[str, Any]) -> Collection[str]:
    """Variables that PyTorch reads; where a model's own code may run, also where the Hub's client keeps files."""
    prefixes: tuple[str, ...] = ("PYTORCH_", "TORCH_", "TORCHINDUCTOR_", "TRITON_", "OPENVINO_", "ORT_")
    if options.get("trust_remote_code"):
        prefixes += ("HF_",)
    return [name for name in os.environ if name.startswith(prefixes) and not name.endswith(("TOKEN", "KEY"))]
