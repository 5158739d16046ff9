"""Several answers and how likely they were, from llama.cpp's own server and from one that a test scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from openai_server import MODEL, Asked, Reply, ScriptedServer, generation

from airflow_mullama import GenerateJob, run_partition
from airflow_mullama.errors import ConfigurationError, MullamaError

pytestmark = pytest.mark.integration

Start = Callable[..., ScriptedServer]
WARM = {"temperature": 1.5, "seed": 3}
TEXTS = ["my parcel never came", "I was charged twice"]


@pytest.fixture
def ask(
    tmp_path: Path, write_parquet: Callable[..., Path], no_worker_left: None
) -> Callable[..., list[dict[str, Any]]]:
    source = write_parquet(tmp_path / "in.parquet", TEXTS)

    def ask(url: str | None, **arguments: Any) -> list[dict[str, Any]]:
        where = {"engine": "openai", "engine_options": {"endpoint": url}} if url else {"engine": "llamacpp"}
        job = GenerateJob(
            **{"model": "tagger", "prompt_column": "text", "max_tokens": 24, "if_exists": "overwrite", **arguments},
            max_error_ratio=1.0,
            **where,  # type: ignore[arg-type]
        )
        run_partition(job, source, tmp_path / "out.parquet", listeners=[])
        rows: list[dict[str, Any]] = pq.read_table(tmp_path / "out.parquet").to_pylist()
        return rows

    return ask


@pytest.mark.parametrize("chat", [True, False])
def test_log_probabilities_are_those_of_the_engine_llamacpp(
    ask: Callable[..., list[dict[str, Any]]], tagger_server: str, chat: bool
) -> None:
    remote = ask(tagger_server, logprobs=True, chat=chat)
    local = ask(None, model="demo:ticket-tagger", logprobs=True, chat=chat, row_timeout=300.0)
    for row, other in zip(remote, local, strict=True):
        assert row["response"] == other["response"]
        assert row["mean_logprob"] == pytest.approx(other["mean_logprob"], abs=1e-4)
        assert row["min_logprob"] == pytest.approx(other["min_logprob"], abs=1e-4)


def test_several_answers_draw_from_the_next_seeds(ask: Callable[..., list[dict[str, Any]]], tagger_server: str) -> None:
    rows = ask(tagger_server, n=2, logprobs=True, sampling=WARM, chat=False)
    ones = [ask(tagger_server, sampling={**WARM, "seed": seed}, chat=False) for seed in (3, 4)]
    for row, first, second in zip(rows, *ones, strict=True):
        assert row["responses"] == [first["response"], second["response"]]
        assert row["completion_tokens"] == first["completion_tokens"] + second["completion_tokens"]
        assert max(row["mean_logprobs"]) <= 0


def test_a_server_without_log_probabilities_is_refused_before_the_first_row(
    ask: Callable[..., list[dict[str, Any]]], scripted_server: Start
) -> None:
    server = scripted_server()
    with pytest.raises(ConfigurationError, match="does not say how likely an answer's tokens were: leave logprobs out"):
        ask(server.url, model=MODEL, logprobs=True)
    assert [asked.body["logprobs"] for asked in server.asked if asked.body] == [True]


def test_one_that_refuses_them_is_quoted(ask: Callable[..., list[dict[str, Any]]], scripted_server: Start) -> None:
    def answer(asked: Asked) -> Reply | None:
        refused = Reply(400, {"error": {"message": "logprobs is not supported"}})
        return refused if asked.body and "logprobs" in asked.body else None

    with pytest.raises(MullamaError, match="logprobs is not supported"):
        ask(scripted_server(answer).url, model=MODEL, logprobs=True)


def test_a_row_fails_with_the_answer_that_did(ask: Callable[..., list[dict[str, Any]]], scripted_server: Start) -> None:
    asked_seeds: list[int] = []

    def answer(asked: Asked) -> Reply | None:
        if asked.body is None or asked.text != TEXTS[0]:
            return None
        asked_seeds.append(asked.body["seed"])
        if len(asked_seeds) == 2:
            return generation(asked, "no", finish_reason="content_filter")
        return None

    failed, sound = ask(scripted_server(answer).url, model=MODEL, n=3, sampling=WARM)
    assert (failed["error_type"], failed["response"], failed["responses"]) == ("request_refused", None, None)
    assert failed["error"].startswith("answer 2 of 3: the server's filter stopped the answer")
    assert len(set(asked_seeds)) == len(asked_seeds) == 2
    assert sound["responses"] == [TEXTS[1]] * 3
