"""Documents in chunks over HTTP: the server counts the tokens, or a tokenizer beside us does, or nobody does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openai_server import MODEL, Asked, Reply, ScriptedServer, count, error, numbers_of

from airflow_mullama import EmbedJob, run_partition
from airflow_mullama.errors import ConfigurationError

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_worker_left")]

Start = Callable[..., ScriptedServer]
DOCUMENT = (
    "The parcel never came. I asked twice, and nobody answered. It rained for three days. Then the sun came out. " * 3
)


def embed(folder: Path, url: str, model: str = MODEL, **options: Any) -> list[dict[str, Any]]:
    source, target = folder / "in.parquet", folder / "out.parquet"
    pq.write_table(pa.table({"text": [DOCUMENT, None, "Short."]}), source)
    job = EmbedJob(
        model=model,
        engine="openai",
        engine_options={"endpoint": url, **options},
        text_column="text",
        chunking={"tokens": 24},
        normalize=False,
        max_error_ratio=1.0,
        max_retries=0,
    )
    run_partition(job, source, target, listeners=[])
    rows: list[dict[str, Any]] = pq.read_table(target).to_pylist()
    return rows


def texts_of(row: dict[str, Any]) -> list[str]:
    return [row["text"][chunk["start"] : chunk["end"]] for chunk in row["chunks"]]


def test_a_llama_server_counts_the_tokens(tmp_path: Path, embedding_server: str) -> None:
    rows = embed(tmp_path, embedding_server, "tiny", api_key="sekret")
    assert [row["status"] for row in rows] == ["success", "skipped", "success"]
    assert len(rows[0]["chunks"]) > 4
    assert "".join(texts_of(rows[0])) == DOCUMENT
    assert max(chunk["tokens"] for chunk in rows[0]["chunks"]) <= 24


def test_vllm_counts_them_too(tmp_path: Path, scripted_server: Start) -> None:
    def answer(asked: Asked) -> Reply | None:
        if asked.path != "/tokenize":
            return None
        assert asked.body["model"] == MODEL
        assert asked.body["add_special_tokens"] is True
        tokens = list(range(count(asked.body["prompt"])))
        return Reply(body={"count": len(tokens), "max_model_len": 512, "tokens": tokens})

    rows = embed(tmp_path, scripted_server(answer).url, server="vllm")
    assert [row["status"] for row in rows] == ["success", "skipped", "success"]
    chunks = rows[0]["chunks"]
    assert [chunk["tokens"] for chunk in chunks] == [count(text) for text in texts_of(rows[0])]
    np.testing.assert_allclose(
        [chunk["embedding"] for chunk in chunks], [numbers_of(text) for text in texts_of(rows[0])]
    )


def test_a_count_that_fails_later_is_the_rows_error(tmp_path: Path, scripted_server: Start) -> None:
    def answer(asked: Asked) -> Reply | None:
        if asked.path != "/tokenize":
            return None
        if "parcel" in asked.body["prompt"]:
            return error(400, "no parcels please")
        return Reply(body={"tokens": [0] * count(asked.body["prompt"])})

    rows = embed(tmp_path, scripted_server(answer).url, server="vllm")
    assert [row["error_type"] for row in rows] == ["request_refused", "null_input", None]
    assert "no parcels please" in rows[0]["error"]


def test_another_server_is_refused_by_name_before_any_row(tmp_path: Path, scripted_server: Start) -> None:
    with pytest.raises(ConfigurationError, match=r"only llama-server and vLLM do; give engine_options\['tokenizer'\]"):
        embed(tmp_path, scripted_server().url)
    with pytest.raises(ConfigurationError, match=r"at /tokenize \(.*no such path.*\); give engine_options"):
        embed(tmp_path, scripted_server().url, server="vllm")
    with pytest.raises(ConfigurationError, match="there is no such file"):
        embed(tmp_path, scripted_server().url, tokenizer=str(tmp_path / "none.json"))


def test_a_tokenizer_beside_us_counts_for_any_server(tmp_path: Path, scripted_server: Start) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = sorted({*DOCUMENT.replace(".", "").replace(",", "").split(), "Short", ".", ",", "[UNK]"})
    vocabulary = {word: place for place, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    server = scripted_server()
    rows = embed(tmp_path, server.url, tokenizer=str(tmp_path / "tokenizer.json"))
    assert [row["status"] for row in rows] == ["success", "skipped", "success"]
    for text, chunk in zip(texts_of(rows[0]), rows[0]["chunks"], strict=True):
        assert chunk["tokens"] == len(tokenizer.encode(text).ids) <= 24
    assert not [asked for asked in server.asked if asked.path == "/tokenize"]
