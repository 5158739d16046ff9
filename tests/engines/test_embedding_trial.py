"""Texts are embedded together only where that gives the vectors that each has alone."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from openai_server import MODEL, Asked, Reply, ScriptedServer, error, numbers_of, vector_of
from tiny_gguf import write_tiny_gguf

from airflow_mullama import EmbedJob, run_partition
from airflow_mullama.engines.base import Embedding, Engine, EngineSettings, Request
from airflow_mullama.engines.embedding_trial import start_embedding_engine
from airflow_mullama.engines.llamacpp import engine as llamacpp
from airflow_mullama.errors import EndpointUnavailableError, ModelLoadError

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_worker_left")]

Start = Callable[..., ScriptedServer]
TEXTS = ["one", "two", "three", "four"]
JOB = {"normalize": True, "pooling": "mean", "dimensions": None, "dtype": "float32", "truncate": "error"}


@pytest.fixture
def embed(tmp_path: Path, write_parquet: Callable[..., Path]) -> Callable[..., list[Any]]:
    """Run a job on four rows against a server; their vectors."""

    def run(server: ScriptedServer, **options: Any) -> list[Any]:
        source, output = write_parquet(tmp_path / "in.parquet", TEXTS), tmp_path / "out.parquet"
        engine_options = {"endpoint": server.url, "max_wait": 0, **options}
        job = EmbedJob(model=MODEL, engine="openai", engine_options=engine_options, text_column="text", normalize=False)
        run_partition(job, source, output)
        return [row["embedding"] for row in pq.read_table(output).to_pylist()]

    return run


def vectors_reply(asked: Asked, texts: list[str]) -> Reply:
    packed = asked.body.get("encoding_format") == "base64"
    return Reply(
        body={
            "data": [{"index": place, "embedding": vector_of(text, packed=packed)} for place, text in enumerate(texts)]
        }
    )


def lists(server: ScriptedServer) -> list[list[str]]:
    return [asked.body["input"] for asked in server.asked if asked.path == "/v1/embeddings"]


def test_a_server_that_mixes_up_the_texts_of_a_list_gets_them_one_by_one_and_the_log_says_so(
    embed: Any, scripted_server: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(asked: Asked) -> Reply | None:
        return vectors_reply(asked, asked.body["input"][::-1]) if asked.path == "/v1/embeddings" else None

    server = scripted_server(answer)
    with caplog.at_level(logging.INFO):
        vectors = embed(server)
    np.testing.assert_array_equal(vectors, [numbers_of(text) for text in TEXTS])
    assert [asked for asked in lists(server) if asked[0] in TEXTS] == [[text] for text in TEXTS]
    assert "a text has another vector among others than alone" in caplog.text
    assert "each text is embedded alone" in caplog.text


def test_a_sound_server_gets_lists_and_the_log_says_what_was_tried(
    embed: Any, scripted_server: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server = scripted_server()
    with caplog.at_level(logging.INFO):
        vectors = embed(server, n_parallel=1)
    np.testing.assert_array_equal(vectors, [numbers_of(text) for text in TEXTS])
    assert lists(server)[-1] == TEXTS
    assert "three texts have the same vectors alone and together" in caplog.text


def test_a_server_whose_vectors_change_from_one_time_to_the_next_is_refused(embed: Any, scripted_server: Start) -> None:
    numbers: Iterator[int] = itertools.count()

    def answer(asked: Asked) -> Reply | None:
        if asked.path != "/v1/embeddings":
            return None
        return vectors_reply(asked, [f"{text} {next(numbers)}" for text in asked.body["input"]])

    with pytest.raises(ModelLoadError, match=r"no sound vectors .* another vector among others than alone"):
        embed(scripted_server(answer))


def test_a_server_that_does_not_answer_the_trial_may_later(embed: Any, scripted_server: Start) -> None:
    def answer(asked: Asked) -> Reply | None:
        return error(500, "out of memory") if asked.path == "/v1/embeddings" and "Yes." in asked.body["input"] else None

    with pytest.raises(EndpointUnavailableError, match=r"no vector of a short text: .* out of memory"):
        embed(scripted_server(answer))


def start_decoder(folder: Path) -> Engine:
    settings = EngineSettings(
        task="embed",
        model=str(write_tiny_gguf(folder / "tiny.gguf")),
        options={"n_parallel": 4, "n_threads": 1},
        settings=JOB,
        scratch=str(folder),
    )
    return start_embedding_engine(llamacpp.LlamaCppEngine, settings)


def embedded(engine: Engine, *texts: str) -> list[np.ndarray]:
    prepared = engine.prepare([Request(row, 1, text) for row, text in enumerate(texts)])
    outcomes = engine.run([request for request in prepared if isinstance(request, Request)])
    vectors = [outcome.vector for outcome in outcomes if isinstance(outcome, Embedding)]
    return [vector / np.linalg.norm(vector) for vector in vectors]


def test_a_decoder_with_several_slots_gives_each_text_its_own_vector(tmp_path: Path) -> None:
    engine = start_decoder(tmp_path)
    assert engine.info.n_parallel == 4
    texts = ["hello", "a parcel that never came", "two", "please say it again and again, row number one, two, three"]
    together = embedded(engine, *texts)
    alone = [vector for text in texts for vector in embedded(engine, text)]
    engine.close()
    assert all(one @ other > 0.9999 for one, other in zip(together, alone, strict=True))


def test_where_slots_mix_up_texts_one_slot_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsafe = llamacpp._common_params

    def with_a_cache_for_each_slot(*arguments: Any) -> Any:
        parameters = unsafe(*arguments)
        parameters.kv_unified = False
        return parameters

    monkeypatch.setattr(llamacpp, "_common_params", with_a_cache_for_each_slot)
    engine = start_decoder(tmp_path)
    engine.close()
    assert (engine.info.n_parallel, engine.info.calls, engine.rows_per_call) == (1, 1, 1)
    assert "one text at a time" in engine.info.notes[-1]
