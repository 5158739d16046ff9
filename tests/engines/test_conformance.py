"""The suite of ``conformance.py``, run for each engine; an engine that is not installed is skipped in plain sight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conformance import TEXTS, Embeds, EngineUnderTest, Generates
from template_models import write_thinking_model
from tiny_folder import write_folder
from tiny_gguf import write_tiny_gguf
from tiny_llama import last_token_vectors
from tiny_mmproj import write_tiny_mmproj
from using_mullama import mullama_port, why_no_port

from airflow_mullama import EmbedJob, GenerateJob, run_partition
from airflow_mullama.demo.tickets import PROMPT_TEMPLATE, generate_tickets
from airflow_mullama.engines.echo import DEFAULT_DIMENSIONS, hash_vector

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_worker_left")]


class Echo(EngineUnderTest):
    name = "echo"
    no_logprobs = "logprobs=True, and the engine 'echo' does not"
    no_pictures = "the engine 'echo' takes no pictures"
    samples = False
    chats = False

    def model(self, folder: Path) -> str:
        return "echo"

    def thinking(self, folder: Path) -> AbstractContextManager[tuple[str, str, int]]:
        return nullcontext(("echo", "<think>hm</think>yes", 1))

    def reference_vectors(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        vectors = np.stack([hash_vector(text, DEFAULT_DIMENSIONS) for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class LlamaCpp(EngineUnderTest):
    name = "llamacpp"
    options: Mapping[str, Any] = MappingProxyType({"n_ctx": 512, "n_parallel": 3, "n_threads": 1})
    constrains = True
    pooling = "last"

    def model(self, folder: Path) -> str:
        return str(write_tiny_gguf(folder / "tiny.gguf"))

    def thinking(self, folder: Path) -> AbstractContextManager[tuple[str, str, int]]:
        return nullcontext((str(write_thinking_model(folder / "thinking.gguf")), "more", 3))

    def seeing(self, folder: Path) -> Mapping[str, Any]:
        return {"mmproj": str(write_tiny_mmproj(folder / "mmproj.gguf"))}

    def reference_vectors(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return last_token_vectors(Path(model), texts)


class SentenceTransformers(EngineUnderTest):
    """It only embeds; `make test-torch` has its packages."""

    name = "sentence_transformers"
    options: Mapping[str, Any] = MappingProxyType({"device": "cpu", "n_threads": 1})

    def model(self, folder: Path) -> str:
        return str(write_folder(folder / "tiny", max_seq_length=self.n_ctx))

    def reference_vectors(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        from sentence_transformers import SentenceTransformer

        encoder = SentenceTransformer(model, device="cpu", local_files_only=True)
        vectors: npt.NDArray[np.float32] = encoder.encode(list(texts), normalize_embeddings=True)
        return vectors


class Mullama(EngineUnderTest):
    """The real bindings, where somebody built them."""

    name = "mullama"
    no_logprobs = "logprobs=True, and the engine 'mullama' does not"
    no_pictures = "the engine 'mullama' takes no pictures"
    options: Mapping[str, Any] = MappingProxyType({"n_ctx": 512, "n_threads": 1})
    pooling = "last"

    def model(self, folder: Path) -> str:
        return str(write_tiny_gguf(folder / "tiny.gguf"))

    def thinking(self, folder: Path) -> AbstractContextManager[tuple[str, str, int]]:
        return nullcontext((str(write_thinking_model(folder / "thinking.gguf")), "more", 3))

    def reference_vectors(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return last_token_vectors(Path(model), texts)


class MullamaPort(Mullama):
    """The adapter over a port of the bindings to the llama.cpp inside ``xllamacpp``."""

    def why_not(self) -> str | None:
        return why_no_port()

    def set_up(self) -> AbstractContextManager[None]:
        return mullama_port()


class TestEchoGenerates(Generates):
    engine = Echo()


class TestEchoEmbeds(Embeds):
    engine = Echo()


class TestLlamaCppGenerates(Generates):
    engine = LlamaCpp()


class TestLlamaCppEmbeds(Embeds):
    engine = LlamaCpp()


class TestSentenceTransformersEmbeds(Embeds):
    engine = SentenceTransformers()


@pytest.mark.mullama_bindings
class TestMullamaGenerates(Generates):
    engine = Mullama()


@pytest.mark.mullama_bindings
class TestMullamaEmbeds(Embeds):
    engine = Mullama()


class TestMullamaPortGenerates(Generates):
    engine = MullamaPort()


class TestMullamaPortEmbeds(Embeds):
    engine = MullamaPort()


Bindings = Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=["port", pytest.param("real", marks=pytest.mark.mullama_bindings)])
def bindings(request: pytest.FixtureRequest) -> Bindings:
    """What makes ``import mullama`` give the port to llama.cpp, or leaves it to give what is installed."""
    reason = why_no_port() if request.param == "port" else Mullama().why_not()
    if reason is not None:
        pytest.skip(reason)
    return mullama_port if request.param == "port" else nullcontext


def test_mullama_answers_as_llamacpp_does(tmp_path: Path, bindings: Bindings) -> None:
    tickets: list[str] = [ticket.text for ticket in generate_tickets(25, seed=3)]
    pq.write_table(pa.table({"text": tickets}), tmp_path / "in.parquet")

    def tagged(engine: str, **arguments: Any) -> list[dict[str, Any]]:
        job = GenerateJob(
            model="demo:ticket-tagger",
            engine=engine,
            engine_options={"n_threads": 1},
            prompt_template=PROMPT_TEMPLATE,
            max_tokens=48,
            if_exists="overwrite",
            **arguments,
        )
        run_partition(job, tmp_path / "in.parquet", tmp_path / "out.parquet", listeners=[])
        return pq.read_table(tmp_path / "out.parquet").to_pylist()

    sampling = {"repeat_penalty": 1.3, "frequency_penalty": 0.4, "stop": [',"urgency']}
    for arguments in ({}, {"system_prompt": "Be brief.", "sampling": sampling}):
        with bindings():
            ours = tagged("mullama", **arguments)
        assert {row["status"] for row in ours} == {"success"}
        assert ours == tagged("llamacpp", **arguments)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_mullama_embeds_as_llamacpp_does(tmp_path: Path, tiny_model: Path, pooling: Any, bindings: Bindings) -> None:
    pq.write_table(pa.table({"text": [*TEXTS, "word " * 80, "a", ""]}), tmp_path / "in.parquet")

    def embedded(engine: str) -> pa.Table:
        job = EmbedJob(model=str(tiny_model), engine=engine, text_column="text", pooling=pooling, if_exists="overwrite")
        run_partition(job, tmp_path / "in.parquet", tmp_path / "out.parquet", listeners=[])
        return pq.read_table(tmp_path / "out.parquet")

    with bindings():
        ours = embedded("mullama")
    theirs = embedded("llamacpp")
    assert ours["prompt_tokens"] == theirs["prompt_tokens"]
    assert set(ours["status"].to_pylist()) == {"success"}
    vectors = [np.array(table["embedding"].to_pylist()) for table in (ours, theirs)]
    assert np.einsum("ij,ij->i", *vectors).min() > 0.9999
