"""A double of the mullama Python bindings: their surface, and their behaviour as ``facts.py`` lists it.

There is no llama.cpp in it. It reads a real GGUF file's header and vocabulary; its tokens are bytes; answers and
vectors are drawn from a hash of all the tokens in the cache, so that whatever is wrong there shows. A prompt may script
an answer with ``say:TEXT;`` and ``sayhex:BYTES;``, and a bad day with ``say-long;``, ``hang;`` and ``crash;``.
``MULLAMA_DOUBLE_GPU=1`` gives it a GPU; the file of ``MULLAMA_DOUBLE_HANGS`` is made when it hangs.
"""

from __future__ import annotations

import os

from mullama.contexts import Context, EmbeddingGenerator
from mullama.models import Model
from mullama.samplers import SamplerParams

__all__ = [
    "Context",
    "EmbeddingGenerator",
    "Model",
    "SamplerParams",
    "__version__",
    "backend_free",
    "backend_init",
    "max_devices",
    "supports_gpu_offload",
    "system_info",
]
__version__ = "0.1.0"


def supports_gpu_offload() -> bool:
    return os.environ.get("MULLAMA_DOUBLE_GPU") == "1"


def backend_init() -> None: ...


def backend_free() -> None: ...


def max_devices() -> int:
    return 16


def system_info() -> str:
    return "a double: no llama.cpp"
