"""The suite of ``conformance.py``, run for each engine; an engine that is not installed is skipped in plain sight."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conformance import TEXTS, Embeds, EngineUnderTest, Generates
from tiny_gguf import write_tiny_gguf
from tiny_llama import last_token_vectors
from using_mullama import mullama_port, why_no_port

from airflow_mullama import EmbedJob, GenerateJob, run_partition
from airflow_mullama.demo.tickets import PROMPT_TEMPLATE, generate_tickets
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


class TestMullamaGenerates(Generates):
    engine = Mullama()


class TestMullamaEmbeds(Embeds):
    engine = Mullama()


class TestMullamaPortGenerates(Generates):
    engine = MullamaPort()


class TestMullamaPortEmbeds(Embeds):
    engine = MullamaPort()


@pytest.mark.skipif(why_no_port() is not None, reason=str(why_no_port()))
def test_mullama_answers_as_llamacpp_does(tmp_path: Path) -> None:
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
        with mullama_port():
            ours = tagged("mullama", **arguments)
        assert {row["status"] for row in ours} == {"success"}
        assert ours == tagged("llamacpp", **arguments)


@pytest.mark.skipif(why_no_port() is not None, reason=str(why_no_port()))
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_mullama_embeds_as_llamacpp_does(tmp_path: Path, tiny_model: Path, pooling: Any) -> None:
    pq.write_table(pa.table({"text": [*TEXTS, "word " * 80, "a", ""]}), tmp_path / "in.parquet")

    def embedded(engine: str) -> pa.Table:
        job = EmbedJob(model=str(tiny_model), engine=engine, text_column="text", pooling=pooling, if_exists="overwrite")
        run_partition(job, tmp_path / "in.parquet", tmp_path / "out.parquet", listeners=[])
        return pq.read_table(tmp_path / "out.parquet")

    with mullama_port():
        ours = embedded("mullama")
    theirs = embedded("llamacpp")
    assert ours["prompt_tokens"] == theirs["prompt_tokens"]
    assert set(ours["status"].to_pylist()) == {"success"}
    vectors = [np.array(table["embedding"].to_pylist()) for table in (ours, theirs)]
    assert np.einsum("ij,ij->i", *vectors).min() > 0.9999
