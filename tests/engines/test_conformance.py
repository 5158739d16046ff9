"""The suite of ``conformance.py``, run for each engine; an engine that is not installed is skipped in plain sight."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from conformance import Embeds, EngineUnderTest, Generates
from tiny_gguf import write_tiny_gguf
from tiny_llama import last_token_vectors
from using_mullama_double import mullama_double

from airflow_mullama.engines.echo import DEFAULT_DIMENSIONS, hash_vector

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_worker_left")]


class Echo(EngineUnderTest):
    name = "echo"
    samples = False
    chats = False

    def model(self, folder: Path) -> str:
        return "echo"

    def reference_vectors(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        vectors = np.stack([hash_vector(text, DEFAULT_DIMENSIONS) for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class LlamaCpp(EngineUnderTest):
    name = "llamacpp"
    options: ClassVar = {"n_ctx": 512, "n_parallel": 3, "n_threads": 1}
    constrains = True
    pooling = "last"

    def model(self, folder: Path) -> str:
        return str(write_tiny_gguf(folder / "tiny.gguf"))

    def reference_vectors(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return last_token_vectors(Path(model), texts)


class Mullama(EngineUnderTest):
    """The real bindings, where somebody built them."""

    name = "mullama"
    options: ClassVar = {"n_ctx": 512, "n_threads": 1}
    pooling = "last"

    def model(self, folder: Path) -> str:
        return str(write_tiny_gguf(folder / "tiny.gguf"))

    def reference_vectors(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return last_token_vectors(Path(model), texts)


class MullamaDouble(Mullama):
    """The adapter over a double that does what the bindings do: see ``mullama_double/mullama/facts.py``."""

    def why_not(self) -> str | None:
        return None

    def set_up(self) -> AbstractContextManager[None]:
        return mullama_double()

    def reference_vectors(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        import mullama

        loaded = mullama.Model.load(model)
        vectors = np.stack([loaded.true_vector(loaded.tokenize(text), "last") for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class TestEchoGenerates(Generates):
    engine = Echo()


class TestEchoEmbeds(Embeds):
    engine = Echo()


class TestLlamaCppGenerates(Generates):
    engine = LlamaCpp()


class TestLlamaCppEmbeds(Embeds):
    engine = LlamaCpp()


class TestMullamaGenerates(Generates):
    engine = Mullama()


class TestMullamaEmbeds(Embeds):
    engine = Mullama()


class TestMullamaDoubleGenerates(Generates):
    engine = MullamaDouble()


class TestMullamaDoubleEmbeds(Embeds):
    engine = MullamaDouble()
