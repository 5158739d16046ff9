"""How much memory a model's context takes, and how much there is for it, on the devices llama.cpp will use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_mullama.engines.resources import free_memory
from airflow_mullama.models.gguf_header import GgufHeader

# Left for llama.cpp's own buffers and for everything else on the device.
KEPT_FREE = 0.15
# Of a process's own memory while it loads, beside twice what weights and context take: Python, drivers, buffers.
SPARE_AT_LOAD = 4 << 30
BYTES_PER_KV_NUMBER: Mapping[str, float] = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}


def is_gpu(device: Mapping[str, Any]) -> bool:
    """Whether an entry of ``xllamacpp.get_device_info()`` is a GPU (an integrated one too)."""
    return "GPU" in str(device.get("type", ""))


def kv_bytes_per_token(header: GgufHeader, options: Mapping[str, Any]) -> float:
    """Bytes that one token of context takes in all layers; 0 where the header does not say.

    Models with sliding windows or without attention in some layers take less.
    """
    layers = int(header.of_architecture("block_count") or 0)
    heads = int(_most(header.of_architecture("attention.head_count")) or 1)
    kv_heads = int(_most(header.of_architecture("attention.head_count_kv")) or heads)
    width = (header.embedding_length or 0) // heads
    key = int(header.of_architecture("attention.key_length") or width)
    value = int(header.of_architecture("attention.value_length") or width)
    key_bytes, value_bytes = (
        BYTES_PER_KV_NUMBER[options.get(name) or "f16"] for name in ("cache_type_k", "cache_type_v")
    )
    return layers * kv_heads * (key * key_bytes + value * value_bytes)


def most_at_load(header: GgufHeader, options: Mapping[str, Any], model_bytes: int, tokens: int) -> int | None:
    """Bytes beyond which a process that loads a model does something else; ``None`` where the header does not say.

    Twice what weights and context take, as if both lay in memory (and not on a GPU, or in a mapped file) and were
    copied once.

    Args:
        header: of the model.
        options: of the engine.
        model_bytes: size of the model's files.
        tokens: of context, all rows together, at most.
    """
    per_token = kv_bytes_per_token(header, options)
    return 2 * (model_bytes + int(per_token * tokens)) + SPARE_AT_LOAD if per_token else None


def _most(value: Any) -> Any:
    return max(value) if isinstance(value, list) else value  # some models have a number for each layer


@dataclass(frozen=True)
class Memory:
    """What there is for weights and context.

    Args:
        free: bytes free on the devices that hold the layers.
        weights: bytes that the model takes of them.
    """

    free: int
    weights: int

    @property
    def for_context(self) -> float | None:
        """Bytes that the rows' context may take; ``None`` if it is not known how much is free."""
        return max(0.0, self.free * (1 - KEPT_FREE) - self.weights) if self.free else None

    @classmethod
    def of(
        cls,
        devices: Sequence[Mapping[str, Any]],
        n_gpu_layers: int,
        header: GgufHeader,
        model_bytes: int,
        workers: int = 1,
    ) -> Memory:
        """Look at the devices.

        Where only some layers go to GPUs, weights and context are split likewise, and the tighter side decides.

        Args:
            devices: as ``xllamacpp.get_device_info()`` lists them.
            n_gpu_layers: layers that go to GPUs; -1 for all.
            header: of the model.
            model_bytes: size of its files.
            workers: that share these devices.
        """
        layers = int(header.of_architecture("block_count") or 0)
        share = 1.0 if n_gpu_layers < 0 or n_gpu_layers >= layers else n_gpu_layers / layers
        gpus = [device for device in devices if is_gpu(device)]
        if not gpus:
            share = 0.0
        sides = []
        if share > 0:
            on_gpus = sum(int(device.get("memory_free") or 0) for device in gpus)
            sides.append(cls(int(on_gpus / share), model_bytes))
        if share < 1:
            # llama.cpp reports a machine's whole memory as free, and knows nothing of a container's limit.
            on_cpu = free_memory() or max(
                (int(device.get("memory_free") or 0) for device in devices if not is_gpu(device)), default=0
            )
            sides.append(cls(int(on_cpu / workers / (1 - share)), model_bytes))
        return min(sides, key=lambda side: side.free)
