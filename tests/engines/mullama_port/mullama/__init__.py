"""The mullama Python bindings written anew, call by call, over the real llama.cpp inside the package ``xllamacpp``.

Every method makes the calls of llama.cpp's C API that the one of the same name makes in ``bindings/python/src/lib.rs``
of https://github.com/Skelf-Research/mullama (commit 965eb9d) and what it calls, in the same order and with the
interpreter lock held. So the adapter meets the real thing but for the Rust; ``mullama_double`` is for what the real
thing cannot be made to do in a test. Structures are passed as bytes, of which only the fields that are set are known;
``require_known_layout`` looks at their defaults first.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__version__ = "0.1.0"
UNSPECIFIED = -1
MEAN_POOLING = 1
PIECE_BYTES = 128


class _Parameters(ctypes.Structure):
    """``llama_model_params`` or ``llama_context_params``: larger than either, because only their beginning is read."""

    _fields_ = (("bytes", ctypes.c_uint8 * 512),)

    @property
    def numbers(self) -> Any:
        return np.frombuffer(self.bytes, np.int32)


class _ChainParameters(ctypes.Structure):
    _fields_ = (("no_perf", ctypes.c_bool),)


class _Batch(ctypes.Structure):
    _fields_ = (("n_tokens", ctypes.c_int32), ("pointers", ctypes.c_void_p * 6))


def _library() -> ctypes.PyDLL:
    spec = importlib.util.find_spec("xllamacpp")
    assert spec is not None
    assert spec.origin is not None
    (path,) = Path(spec.origin).parent.glob("xllamacpp*.so")
    return ctypes.PyDLL(str(path))  # keeps the interpreter lock, as the bindings do


_lib = _library()
_p, _i, _u, _f, _b = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32, ctypes.c_float, ctypes.c_bool
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "backend_init": (None,),
    "supports_gpu_offload": (_b,),
    "model_default_params": (_Parameters,),
    "model_load_from_file": (_p, ctypes.c_char_p, _Parameters),
    "model_get_vocab": (_p, _p),
    "model_n_embd": (_i, _p),
    "model_n_layer": (_i, _p),
    "model_n_ctx_train": (_i, _p),
    "tokenize": (_i, _p, ctypes.c_char_p, _i, _p, _i, _b, _b),
    "token_to_piece": (_i, _p, _i, _p, _i, _i, _b),
    "vocab_is_eog": (_b, _p, _i),
    "vocab_n_tokens": (_i, _p),
    "context_default_params": (_Parameters,),
    "init_from_model": (_p, _p, _Parameters),
    "set_n_threads": (None, _p, _i, _i),
    "set_embeddings": (None, _p, _b),
    "n_ctx": (_u, _p),
    "n_batch": (_u, _p),
    "get_memory": (_p, _p),
    "memory_clear": (None, _p, _b),
    "batch_get_one": (_Batch, _p, _i),
    "decode": (_i, _p, _Batch),
    "get_embeddings": (_p, _p),
    "sampler_chain_init": (_p, _ChainParameters),
    "sampler_chain_add": (None, _p, _p),
    "sampler_init_penalties": (_p, _i, _i, _f, _f, _f),
    "sampler_init_top_k": (_p, _i),
    "sampler_init_top_p": (_p, _f, ctypes.c_size_t),
    "sampler_init_min_p": (_p, _f, ctypes.c_size_t),
    "sampler_init_temp": (_p, _f),
    "sampler_init_dist": (_p, _u),
    "sampler_sample": (_i, _p, _p, _i),
    "sampler_accept": (None, _p, _i),
    "sampler_free": (None, _p),
}


def _call(name: str, *arguments: Any) -> Any:
    return getattr(_lib, "llama_" + name)(*arguments)


for _name, (_result, *_arguments) in _SIGNATURES.items():
    _function = getattr(_lib, "llama_" + _name)
    _function.restype, _function.argtypes = _result, _arguments
_call("backend_init")


def supports_gpu_offload() -> bool:
    return bool(_call("supports_gpu_offload"))


class Model:
    @staticmethod
    def load(
        path: str, n_gpu_layers: int = 0, use_mmap: bool = True, use_mlock: bool = False, vocab_only: bool = False
    ) -> Model:
        if not isinstance(path, str):
            raise TypeError(f"argument 'path': '{type(path).__name__}' object cannot be converted to 'PyString'")
        if not os.path.exists(path):
            raise RuntimeError(f"Failed to load model: Model file not found: {path}")
        if n_gpu_layers > 0 or vocab_only:
            raise NotImplementedError("where these lie in the parameters is not known here")
        model = object.__new__(Model)
        model.pointer = _call("model_load_from_file", path.encode(), _call("model_default_params"))
        if not model.pointer:
            raise RuntimeError("Failed to load model: Failed to load model - check file format and parameters")
        model.vocabulary = _call("model_get_vocab", model.pointer)
        model.n_vocab = _call("vocab_n_tokens", model.vocabulary)
        model.n_embd = _call("model_n_embd", model.pointer)
        model.n_layer = _call("model_n_layer", model.pointer)
        model.n_ctx_train = _call("model_n_ctx_train", model.pointer)
        return model

    def tokenize(self, text: str, add_bos: bool = True, special: bool = False) -> list[int]:
        content = text.encode()
        if b"\0" in content:
            raise RuntimeError("Tokenization failed: Invalid text")
        count = abs(_call("tokenize", self.vocabulary, content, len(content), None, 0, add_bos, special))
        tokens = (ctypes.c_int32 * count)()
        _call("tokenize", self.vocabulary, content, len(content), tokens, count, add_bos, special)
        return list(tokens)

    def piece(self, token: int, *, strip_spaces: int) -> str:
        buffer = ctypes.create_string_buffer(PIECE_BYTES)
        count = _call("token_to_piece", self.vocabulary, token, buffer, PIECE_BYTES, strip_spaces, False)
        if count < 0:
            raise RuntimeError(f"Tokenization failed: Failed to convert token to string: {count}")
        return buffer.raw[:count].decode("utf-8", "replace")


@dataclass
class SamplerParams:
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    penalty_repeat: float = 1.1
    penalty_freq: float = 0.0
    penalty_present: float = 0.0
    penalty_last_n: int = 64
    seed: int = 0

    def build_chain(self, n_vocab: int) -> int:
        stages = []
        if self.penalty_repeat != 1.0 or self.penalty_freq != 0.0 or self.penalty_present != 0.0:
            penalties = (self.penalty_last_n, self.penalty_repeat, self.penalty_freq, self.penalty_present)
            # Newer than the bindings' llama.cpp: there the size of the vocabulary is not asked for.
            stages.append(_call("sampler_init_penalties", n_vocab, *penalties))
        if self.top_k > 0:
            stages.append(_call("sampler_init_top_k", self.top_k))
        if self.top_p < 1.0:
            stages.append(_call("sampler_init_top_p", self.top_p, 1))
        if self.min_p > 0.0:
            stages.append(_call("sampler_init_min_p", self.min_p, 1))
        if np.float32(self.temperature) > 0.0:
            stages.append(_call("sampler_init_temp", self.temperature))
        stages.append(_call("sampler_init_dist", self.seed))
        chain = _call("sampler_chain_init", _ChainParameters(no_perf=False))
        for stage in stages:
            _call("sampler_chain_add", chain, stage)
        return int(chain)


def require_known_layout() -> None:
    """Raise if llama.cpp's context parameters do not begin as they are known to: their defaults tell."""
    numbers = _call("context_default_params").numbers
    if list(numbers[:4]) != [512, 2048, 512, 1] or _place_of_pooling(numbers) is None:
        raise NotImplementedError(f"llama_context_params begins with {list(numbers[:16])}")


def _place_of_pooling(numbers: Any) -> int | None:
    """The second of four kinds (rope scaling, pooling, attention, flash attention) that all default to unspecified."""
    starts = (start for start in range(4, 16) if list(numbers[start : start + 4]) == [UNSPECIFIED] * 4)
    start = next(starts, None)
    return None if start is None else start + 1


class Context:
    def __init__(
        self,
        model: Model,
        n_ctx: int = 0,
        n_batch: int = 2048,
        n_threads: int = 0,
        embeddings: bool = False,
        _pooling: int = UNSPECIFIED,
    ) -> None:
        parameters = _call("context_default_params")
        parameters.numbers[:2] = n_ctx, n_batch
        parameters.numbers[_place_of_pooling(parameters.numbers)] = _pooling
        self._model = model
        self._pointer = _call("init_from_model", model.pointer, parameters)
        if not self._pointer:
            raise RuntimeError("Failed to create context: Failed to create context")
        threads = n_threads if n_threads > 0 else os.cpu_count()
        _call("set_n_threads", self._pointer, threads, threads)
        if embeddings:
            _call("set_embeddings", self._pointer, True)

    @property
    def n_ctx(self) -> int:
        return int(_call("n_ctx", self._pointer))

    @property
    def n_batch(self) -> int:
        return int(_call("n_batch", self._pointer))

    def clear_cache(self) -> None:
        _call("memory_clear", _call("get_memory", self._pointer), False)

    def decode(self, tokens: Sequence[int]) -> None:
        for start in range(0, len(tokens), self.n_batch):
            part = tokens[start : start + self.n_batch]
            values = (ctypes.c_int32 * len(part))(*part)
            code = _call("decode", self._pointer, _call("batch_get_one", values, len(part)))
            if code != 0:
                raise RuntimeError(f"Generation failed: Decode failed with code: {code}")

    def _generate(self, prompt: str | list[int], max_tokens: int, params: SamplerParams | None) -> list[int]:
        if max_tokens < 0:
            raise OverflowError("can't convert negative int to unsigned")
        tokens = self._model.tokenize(prompt, True, False) if isinstance(prompt, str) else prompt
        if not tokens:
            raise RuntimeError("Generation failed: Empty prompt tokens")
        self.decode(tokens)
        chain = (params or SamplerParams(seed=2**32 - 1)).build_chain(self._model.n_vocab)
        written: list[int] = []
        try:
            for _ in range(max_tokens):
                token = _call("sampler_sample", chain, self._pointer, -1)
                _call("sampler_accept", chain, token)
                if _call("vocab_is_eog", self._model.vocabulary, token):
                    break
                written.append(token)
                self.decode([token])
        finally:
            _call("sampler_free", chain)
        return written

    def generate(self, prompt: str | list[int], max_tokens: int = 100, params: SamplerParams | None = None) -> str:
        written = self._generate(prompt, max_tokens, params)
        return "".join(self._model.piece(token, strip_spaces=int(not place)) for place, token in enumerate(written))

    def generate_stream(
        self, prompt: str | list[int], max_tokens: int = 100, params: SamplerParams | None = None
    ) -> list[str]:
        return [self._model.piece(token, strip_spaces=0) for token in self._generate(prompt, max_tokens, params)]

    def get_embeddings(self) -> Any:
        pointer = _call("get_embeddings", self._pointer)
        if not pointer:
            return None
        values = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(values, (self._model.n_embd,)).copy()


class EmbeddingGenerator:
    def __init__(self, model: Model, n_ctx: int = 512, normalize: bool = True) -> None:
        self._model = model
        self._normalize = normalize
        self._context = Context(model, n_ctx, embeddings=True, _pooling=MEAN_POOLING)

    def embed(self, text: str) -> Any:
        self._context.clear_cache()
        self._context.decode(self._model.tokenize(text, True, False))
        vector = self._context.get_embeddings()
        if vector is None:
            raise RuntimeError("No embeddings available")
        length = float(np.linalg.norm(vector))
        return vector / length if self._normalize and length > 0 else vector
