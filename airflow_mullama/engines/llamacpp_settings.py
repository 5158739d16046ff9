"""What the engine ``llamacpp`` is started with: the user's options, and sound values for what they leave out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.engines.options import Check, OfType, OneOf, Whole
from airflow_mullama.errors import GpuNotAvailableError
from airflow_mullama.models.gguf_header import GgufHeader

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")

# Ranges outside of which llama.cpp aborts, hangs or swaps the machine, as measured.
CHECKS: Mapping[str, Check] = {
    "n_ctx": Whole(32, 1_048_576),
    "n_batch": Whole(32, 65_536),
    "n_ubatch": Whole(32, 65_536),
    "n_parallel": Whole(1, 256),
    "n_gpu_layers": Whole(-1, 10_000),
    "n_threads": Whole(1, 1024),
    "main_gpu": Whole(0, 63),
    "flash_attn": OneOf((True, False)),
    "cache_type_k": OneOf(KV_TYPES),
    "cache_type_v": OneOf(KV_TYPES),
    "tokenizer": OfType(str, "the path of a tokenizer.json"),
}
# The others decide speed and memory only; a tokenizer counts with the model, by its content.
OUTPUT_OPTIONS = frozenset({"n_ctx", "cache_type_k", "cache_type_v"})

DEFAULT_N_CTX = 4096
DEFAULT_N_PARALLEL = 16
DEFAULT_N_BATCH = 2048
DEFAULT_N_UBATCH = 512
EMBED_ROWS_PER_CALL = 32
EMBED_CALLS = 2  # while one call's vectors are unpacked, the engine has the other's texts
EMBED_SLOTS_ON_GPU = 16
KV_SHARE_OF_MEMORY = 0.25
BYTES_PER_KV_NUMBER = 2  # f16, llama.cpp's default


@dataclass(frozen=True)
class ServerSettings:
    """llama.cpp's settings, all decided.

    Args:
        n_ctx: tokens of one row; the server gets this times ``n_parallel``.
        calls: threads that call the server at once.
        rows_per_call: rows each call brings.
        notes: warnings for the task's log.
    """

    n_ctx: int
    n_parallel: int
    n_batch: int
    n_ubatch: int
    n_gpu_layers: int
    n_threads: int
    calls: int
    rows_per_call: int
    notes: tuple[str, ...]


def choose_settings(
    settings: EngineSettings, header: GgufHeader, devices: Sequence[Mapping[str, Any]]
) -> ServerSettings:
    """Decide every setting.

    Raises:
        GpuNotAvailableError: ``require_gpu``, and the engine sees none.
    """
    options = settings.options
    notes: list[str] = []
    gpus = [device for device in devices if is_gpu(device)]
    n_gpu_layers = _gpu_layers(settings, gpus, notes)
    trained = header.context_length or DEFAULT_N_CTX
    n_ctx = options.get("n_ctx") or min(trained, DEFAULT_N_CTX)
    if n_ctx > trained:
        notes.append(f"n_ctx is {n_ctx} and the model was trained for {trained} tokens: long rows may turn out badly")
        if header.is_encoder:
            n_ctx = trained  # an encoder has no positions beyond
    # One core is left to everything else: llama.cpp's threads wait for each other by spinning, and where one of them
    # has to share its core, all are slow (measured on two busy cores: 398 rows/s with one thread, 8 to 63 with two).
    n_threads = options.get("n_threads") or max(1, _usable_cores() - 1)
    if settings.task == "embed":
        # On a CPU one slot is as fast as many and gives the same numbers whoever shares the batch.
        n_parallel = options.get("n_parallel") or (EMBED_SLOTS_ON_GPU if gpus and n_gpu_layers else 1)
        # The smaller of the two limits a text's length.
        n_ubatch = max(options.get("n_ubatch") or DEFAULT_N_UBATCH, n_ctx)
        return ServerSettings(
            n_ctx=n_ctx,
            n_parallel=n_parallel,
            n_batch=max(options.get("n_batch") or 0, n_ubatch),
            n_ubatch=n_ubatch,
            n_gpu_layers=n_gpu_layers,
            n_threads=n_threads,
            calls=EMBED_CALLS,
            rows_per_call=max(EMBED_ROWS_PER_CALL, n_parallel),
            notes=tuple(notes),
        )
    n_parallel = options.get("n_parallel") or _parallel_for_memory(header, n_ctx, gpus or devices, notes)
    n_batch = options.get("n_batch") or DEFAULT_N_BATCH
    return ServerSettings(
        n_ctx=n_ctx,
        n_parallel=n_parallel,
        n_batch=n_batch,
        n_ubatch=min(options.get("n_ubatch") or DEFAULT_N_UBATCH, n_batch),
        n_gpu_layers=n_gpu_layers,
        n_threads=n_threads,
        calls=n_parallel,
        rows_per_call=1,
        notes=tuple(notes),
    )


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_gpu(device: Mapping[str, Any]) -> bool:
    """Whether an entry of ``xllamacpp.get_device_info()`` is a GPU (an integrated one too)."""
    return "GPU" in str(device.get("type", ""))


def devices_words(devices: Sequence[Mapping[str, Any]], n_gpu_layers: int) -> tuple[str, ...]:
    """What it computes on, for people."""
    gpus = [device for device in devices if is_gpu(device)]
    chosen = gpus if gpus and n_gpu_layers else [device for device in devices if not is_gpu(device)]
    return tuple(f"{device.get('name')}: {device.get('description')}" for device in chosen)


def _gpu_layers(settings: EngineSettings, gpus: Sequence[Mapping[str, Any]], notes: list[str]) -> int:
    asked = settings.options.get("n_gpu_layers")
    if gpus:
        return -1 if asked is None else int(asked)
    sentence = (
        "xllamacpp sees no GPU here: its wheel on the package index computes on the CPU only; install the wheel for "
        "your GPU (README, 'GPU wheels'), or set n_gpu_layers to 0 to compute on the CPU on purpose"
    )
    if settings.require_gpu:
        raise GpuNotAvailableError(f"require_gpu=True, and {sentence} (and leave require_gpu out).")
    if asked:
        notes.append(f"n_gpu_layers is {asked}, and {sentence}")
    return 0


def _parallel_for_memory(header: GgufHeader, n_ctx: int, devices: Sequence[Mapping[str, Any]], notes: list[str]) -> int:
    """As many slots as fit into a share of the free memory, 16 at most."""
    layers = int(header.of_architecture("block_count") or 0)
    heads = int(header.of_architecture("attention.head_count") or 1)
    kv_heads = header.of_architecture("attention.head_count_kv") or heads
    widest = max(kv_heads) if isinstance(kv_heads, list) else int(kv_heads)
    head_width = int(header.of_architecture("attention.key_length") or (header.embedding_length or 0) // heads)
    slot_bytes = 2 * layers * widest * head_width * BYTES_PER_KV_NUMBER * n_ctx
    free = max((int(device.get("memory_free") or 0) for device in devices), default=0)
    if not slot_bytes or not free:
        return DEFAULT_N_PARALLEL
    fitting = max(1, min(DEFAULT_N_PARALLEL, int(free * KV_SHARE_OF_MEMORY // slot_bytes)))
    if fitting < DEFAULT_N_PARALLEL:
        notes.append(
            f"n_parallel is {fitting} instead of {DEFAULT_N_PARALLEL}: each row's {n_ctx} tokens of context take "
            f"{slot_bytes / 1e6:.0f} MB and {free / 1e9:.1f} GB are free; a smaller n_ctx allows more at once"
        )
    return fitting
