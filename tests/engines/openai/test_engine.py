"""The openai engine for real: llama.cpp's own HTTP server, and one that misbehaves as a test says."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from openai_server import DIMENSIONS, MODEL, Asked, Reply, ScriptedServer, error, generation, numbers_of, usual

from airflow_mullama import EmbedJob, GenerateJob, run_partition
from airflow_mullama.engines.base import EngineSettings, Request
from airflow_mullama.engines.openai.engine import OpenAiEngine
from airflow_mullama.engines.registry import AUTO_ORDER
from airflow_mullama.errors import ConfigurationError, EngineFailedError
from airflow_mullama.jobs.classify import ClassifyJob
from airflow_mullama.jobs.job import Job
from airflow_mullama.manifest import PartitionManifest

pytestmark = pytest.mark.integration

Start = Callable[..., ScriptedServer]
SCHEMA = {
    "type": "object",
    "properties": {"category": {"enum": ["billing", "shipping", "technical"]}, "urgent": {"type": "boolean"}},
    "required": ["category", "urgent"],
}
TICKET = "Tag this ticket: {text}"


class Run:
    """Runs a job on texts; keeps the last manifest."""

    def __init__(self, folder: Path, write_parquet: Callable[..., Path]) -> None:
        self.source, self.target = folder / "in.parquet", folder / "out.parquet"
        self._write_parquet = write_parquet
        self.manifest: PartitionManifest | None = None

    def __call__(
        self, url: str, texts: list[str | None], job: type[Job] = GenerateJob, **arguments: Any
    ) -> list[dict[str, Any]]:
        if not self.source.exists() or pq.read_table(self.source)["text"].to_pylist() != texts:
            self._write_parquet(self.source, texts)
        made = make_job(url, job, **arguments)
        self.manifest = run_partition(made, self.source, self.target, listeners=[])
        rows: list[dict[str, Any]] = pq.read_table(self.target).to_pylist()
        assert [row["text"] for row in rows] == texts
        assert sum(self.manifest.status_counts.values()) == len(texts)
        return rows


def make_job(url: str, job: type[Job] = GenerateJob, options: dict[str, Any] | None = None, **arguments: Any) -> Job:
    prompts = {"prompt_template", "text_column"} & arguments.keys()
    defaults = {} if prompts else {"text_column": "text"} if job is EmbedJob else {"prompt_column": "text"}
    return job(
        **{"model": MODEL, "max_error_ratio": 1.0, **defaults, **arguments},
        engine="openai",
        engine_options={"endpoint": url, **(options or {})},
    )


@pytest.fixture
def run(tmp_path: Path, write_parquet: Callable[..., Path], no_worker_left: None) -> Run:
    return Run(tmp_path, write_parquet)


def types(rows: list[dict[str, Any]]) -> list[str | None]:
    return [row["error_type"] for row in rows]


def test_it_is_never_chosen_by_itself() -> None:
    assert "openai" not in AUTO_ORDER


class TestLlamaServer:
    """Against llama.cpp's own HTTP server."""

    def test_tickets_are_tagged_in_order(self, run: Run, tagger_server: str) -> None:
        texts: list[str | None] = ["my parcel never came", "I was charged twice", None, "the app crashes"]
        rows = run(tagger_server, texts, model="tagger", prompt_template=TICKET, max_tokens=48)
        answers = [json.loads(row["response"])["category"] if row["response"] else None for row in rows]
        assert answers == ["shipping", "billing", None, "technical"]
        assert [row["finish_reason"] for row in rows] == ["stop", "stop", None, "stop"]
        assert types(rows) == [None, None, "null_input", None]

    def test_it_answers_as_the_engine_llamacpp_does(self, run: Run, tmp_path: Path, tagger_server: str) -> None:
        texts: list[str | None] = [f"ticket {number}: my parcel never came" for number in range(12)]
        arguments: dict[str, Any] = {"prompt_template": TICKET, "max_tokens": 48}
        remote = run(tagger_server, texts, model="tagger", **arguments)
        job = GenerateJob(model="demo:ticket-tagger", engine_options={"n_parallel": 1, "n_threads": 1}, **arguments)
        run_partition(job, run.source, tmp_path / "local.parquet", listeners=[])
        assert pq.read_table(tmp_path / "local.parquet").to_pylist() == remote

    def test_counts_and_a_cut_answer_are_the_servers(self, run: Run, tagger_server: str) -> None:
        (row,) = run(tagger_server, ["my parcel never came"], model="tagger", prompt_template=TICKET, max_tokens=5)
        assert (row["finish_reason"], row["completion_tokens"], row["prompt_tokens"]) == ("length", 5, 12)

    def test_a_stop_text_ends_the_answer(self, run: Run, tagger_server: str) -> None:
        sampling = {"stop": ['"sentiment"']}
        (row,) = run(tagger_server, ["my parcel"], model="tagger", prompt_template=TICKET, sampling=sampling)
        assert row["response"] == '{"category":"shipping",'
        assert row["finish_reason"] == "stop"

    def test_a_seed_fixes_sampled_answers_whatever_their_order(self, run: Run, tagger_server: str) -> None:
        texts: list[str | None] = [f"row {number}" for number in range(6)]

        def sample(texts: list[str | None], seed: int) -> list[str]:
            sampling = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": seed}
            rows = run(
                tagger_server, texts, model="tagger", chat=False, max_tokens=12, sampling=sampling,
                options={"n_parallel": 1}, if_exists="overwrite",
            )  # fmt: skip
            return [row["response"] for row in rows]

        assert sample(texts, 7) == sample(texts[::-1], 7)[::-1]
        assert sample(texts, 7) != sample(texts, 8)

    @pytest.mark.parametrize("chat", [None, False])
    def test_answers_are_held_to_a_schema(self, run: Run, tagger_server: str, chat: bool | None) -> None:
        texts: list[str | None] = ["my parcel never came", "I was charged twice"]
        rows = run(
            tagger_server, texts, model="tagger", prompt_template=TICKET, output_schema=SCHEMA, chat=chat, max_tokens=60
        )
        assert [row["category"] for row in rows] == ["shipping", "billing"]
        assert [type(row["urgent"]) for row in rows] == [bool, bool]
        assert run.manifest is not None
        assert run.manifest.constrained is True

    def test_a_label_comes_with_a_confidence(self, run: Run, tagger_server: str) -> None:
        rows = run(tagger_server, ["my parcel"], ClassifyJob, model="tagger", text_column="text", labels=["a", "b"])
        assert rows[0]["label"] in ("a", "b")
        assert 0.0 < rows[0]["confidence"] <= 1.0  # though the model would rather write other words than either

    def test_a_long_row_fails_alone(self, run: Run, tagger_server: str) -> None:
        rows = run(tagger_server, ["short", "word " * 3000, "short too"], model="tagger", max_tokens=4)
        assert types(rows) == [None, "prompt_too_long", None]
        assert "6004 tokens" in rows[1]["error"] or "512" in rows[1]["error"]
        assert rows[1]["attempts"] == 1

    def test_texts_are_embedded_as_by_the_engine_llamacpp(
        self, run: Run, tmp_path: Path, embedding_server: str, tiny_model: Path
    ) -> None:
        texts: list[str | None] = [f"hello row number {number}" for number in range(70)]
        rows = run(embedding_server, texts, EmbedJob, model="tiny", normalize=False, options={"api_key": "sekret"})
        local = EmbedJob(
            model=str(tiny_model), text_column="text", pooling="last", normalize=False, engine_options={"n_threads": 1}
        )
        run_partition(local, run.source, tmp_path / "local.parquet", listeners=[])
        expected = np.array(pq.read_table(tmp_path / "local.parquet")["embedding"].to_pylist())
        np.testing.assert_allclose(np.array([row["embedding"] for row in rows]), expected, rtol=1e-3, atol=1e-4)

    def test_one_long_text_does_not_cost_its_neighbours(self, run: Run, embedding_server: str) -> None:
        texts: list[str | None] = ["hello", "word " * 3000, None, "", "again"]
        rows = run(embedding_server, texts, EmbedJob, model="tiny", options={"api_key": "sekret"})
        assert types(rows) == [None, "prompt_too_long", "null_input", "empty_input", None]
        assert [row["embedding"] is None for row in rows] == [False, True, True, True, False]
        assert rows[0]["prompt_tokens"] > 0  # asked again alone, so it has a count


class TestFaults:
    """Every row is accounted for, whatever the server does."""

    def test_many_rows_in_flight_come_back_in_order(self, run: Run, scripted_server: Start) -> None:
        server = scripted_server()
        texts: list[str | None] = [f"row {number} says hello" for number in range(500)]
        rows = run(server.url, texts, options={"n_parallel": 16}, chunk_rows=64)
        assert [row["response"] for row in rows] == texts
        assert {row["prompt_tokens"] for row in rows} == {4}
        assert sorted(server.texts()) == sorted(texts)  # each once
        assert server.connections <= 17  # a call's each, and the trial's

    def test_a_server_error_that_passes_is_asked_again(self, run: Run, scripted_server: Start) -> None:
        seen: list[str] = []

        def answer(asked: Asked) -> Reply | None:
            if asked.method == "POST" and asked.text == "two":
                seen.append(asked.text)
                return error(500, "hiccup") if len(seen) == 1 else None
            return None

        rows = run(scripted_server(answer).url, ["one", "two", "three"])
        assert [(row["response"], row["attempts"]) for row in rows] == [("one", 1), ("two", 2), ("three", 1)]

    @pytest.mark.parametrize(
        ("reply", "error_type", "attempts", "words"),
        [
            (error(500, "broken"), "http_error", 3, "the server answers 500: broken"),
            (error(502, "bad gateway"), "http_error", 3, "502: bad gateway"),
            (Reply(reset=True), "http_error", 3, "gave no answer"),
            (Reply(body={"choices": []}, cut=4), "http_error", 3, "in the middle of the answer"),
            (Reply(body=b"{oops"), "http_error", 3, "cannot be used"),
            (error(400, "I do not like this text"), "request_refused", 1, "400: I do not like this text"),
            (error(422, "nor this"), "request_refused", 1, "422: nor this"),
            (error(400, "exceeds the context length"), "prompt_too_long", 1, "context length"),
            (error(401, "key revoked"), "http_error", 3, "401: key revoked"),
            (error(429, "not now"), "rate_limited", 3, "429: not now"),
        ],
    )
    def test_a_bad_row_costs_itself_alone(
        self, run: Run, scripted_server: Start, reply: Reply, error_type: str, attempts: int, words: str
    ) -> None:
        server = scripted_server(lambda asked: reply if asked.method == "POST" and asked.text == "bad" else None)
        rows = run(server.url, ["one", "bad", "three"], options={"max_wait": 0})
        assert types(rows) == [None, error_type, None]
        assert rows[1]["attempts"] == attempts
        assert words in rows[1]["error"]
        assert rows[1]["response"] is None

    def test_a_rate_limit_is_waited_out_and_costs_no_attempt(self, run: Run, scripted_server: Start) -> None:
        lock, count = threading.Lock(), 0

        def answer(asked: Asked) -> Reply | None:
            nonlocal count
            if asked.method != "POST" or asked.text == "Say hello.":
                return None
            with lock:
                count += 1
                return error(429, "slow down", Retry_After="1") if count % 3 == 0 else None

        texts: list[str | None] = [f"row {number}" for number in range(30)]
        rows = run(scripted_server(answer).url, texts)
        assert [(row["response"], row["attempts"]) for row in rows] == [(text, 1) for text in texts]
        assert count > len(texts)

    def test_a_row_that_waits_does_not_hold_up_the_others(self, run: Run, scripted_server: Start) -> None:
        others_done = threading.Event()
        texts: list[str | None] = ["limited", *(f"row {number}" for number in range(40))]
        done: set[str] = set()

        def answer(asked: Asked) -> Reply | None:
            if asked.method != "POST":
                return None
            if asked.text == "limited":
                return None if others_done.is_set() else error(429, "you wait")
            done.add(asked.text)
            if len(done) == len(texts):  # the trial is one of them
                others_done.set()
            return None

        rows = run(scripted_server(answer).url, texts, options={"n_parallel": 2, "max_wait": 60})
        assert [row["attempts"] for row in rows] == [1] * len(texts)

    def test_a_slow_row_ends_at_its_timeout(self, run: Run, scripted_server: Start) -> None:
        let_go = threading.Event()

        def answer(asked: Asked) -> Reply | None:
            if asked.method == "POST" and asked.text == "slow":
                let_go.wait(20)
            return None

        rows = run(scripted_server(answer).url, ["one", "slow", "three"], row_timeout=1.0, max_retries=0)
        let_go.set()
        assert types(rows) == [None, "timeout", None]
        assert rows[1]["error"] == "the answer took longer than row_timeout=1 s"

    def test_a_request_timeout_is_an_error_of_the_way(self, run: Run, scripted_server: Start) -> None:
        let_go = threading.Event()

        def answer(asked: Asked) -> Reply | None:
            if asked.method == "POST" and asked.text == "slow":
                let_go.wait(20)
            return None

        rows = run(scripted_server(answer).url, ["one", "slow"], max_retries=0, options={"request_timeout": 0.5})
        let_go.set()
        assert types(rows) == [None, "http_error"]
        assert "request_timeout" in rows[1]["error"]

    def test_a_server_that_counts_nothing_leaves_nulls(self, run: Run, scripted_server: Start) -> None:
        def answer(asked: Asked) -> Reply | None:
            if asked.method != "POST":
                return None
            reply = generation(asked, "yes")
            return Reply(body={"choices": reply.body["choices"]})

        (row,) = run(scripted_server(answer).url, ["one"])
        assert (row["response"], row["prompt_tokens"], row["completion_tokens"]) == ("yes", None, None)
        assert run.manifest is not None
        assert run.manifest.prompt_tokens == 0

    def test_a_server_without_schemas_has_its_answers_checked_and_asked_again(
        self, run: Run, scripted_server: Start
    ) -> None:
        def answer(asked: Asked) -> Reply | None:
            if asked.method != "POST":
                return None
            if "response_format" in asked.body:
                return error(400, "response_format is not supported")
            good = asked.body["temperature"] > 0 and "stubborn" not in asked.text
            return generation(asked, '{"category": "billing", "urgent": true}' if good else "Billing, I think.")

        server = scripted_server(answer)
        rows = run(server.url, ["one", "stubborn"], output_schema=SCHEMA, repair_prompt=True)
        assert [(row["status"], row["attempts"]) for row in rows] == [("success", 2), ("invalid_output", 3)]
        assert rows[0]["category"] == "billing"
        assert (rows[1]["response"], rows[1]["error_type"]) == ("Billing, I think.", "invalid_json")
        assert run.manifest is not None
        assert run.manifest.constrained is False
        assert any("Your last answer was wrong ($:" in text for text in server.texts())

    def test_text_that_is_not_unicode_is_an_error_of_its_row(self, run: Run, scripted_server: Start) -> None:
        def answer(asked: Asked) -> Reply | None:
            if asked.method == "POST" and asked.text == "bad":
                return Reply(body=b'{"choices": [{"message": {"content": "half \\ud83d"}, "finish_reason": "stop"}]}')
            return None

        rows = run(scripted_server(answer).url, ["one", "bad", "three"])
        assert types(rows) == [None, "undecodable_text", None]

    def test_a_rate_limit_in_the_body_of_an_answer_is_waited_for(self, run: Run, scripted_server: Start) -> None:
        asked_before: list[str] = []

        def answer(asked: Asked) -> Reply | None:
            if asked.method == "GET" or asked.text not in ("busy", "busy at first"):
                return None
            asked_before.append(asked.text)
            if asked.text == "busy at first" and asked_before.count(asked.text) > 1:
                return None
            return Reply(body={"error": {"code": 429, "message": "too many requests this minute"}})

        server = scripted_server(answer)
        rows = run(server.url, ["one", "busy", "busy at first"], options={"max_wait": 1.0}, max_retries=0)
        assert types(rows) == [None, "rate_limited", None]
        assert "too many requests this minute (after 1 s of waiting)" in rows[1]["error"]


class TestEmbeddingFaults:
    def test_vectors_reach_their_rows(self, run: Run, scripted_server: Start) -> None:
        server = scripted_server()
        texts: list[str | None] = [f"text {number}" for number in range(100)]
        rows = run(server.url, texts, EmbedJob, normalize=False, options={"rows_per_call": 7})
        np.testing.assert_array_equal([row["embedding"] for row in rows], [numbers_of(str(text)) for text in texts])
        lists = [asked.body["input"] for asked in server.asked if asked.path == "/v1/embeddings"]
        lists = [part for part in lists if part[0].startswith("text ")]  # without trials
        assert max(map(len, lists)) == 7
        assert sorted(text for part in lists for text in part) == sorted(map(str, texts))

    @pytest.mark.parametrize("status", [400, 500])
    def test_a_bad_text_fails_its_list_once_and_then_itself(
        self, run: Run, scripted_server: Start, status: int
    ) -> None:
        def answer(asked: Asked) -> Reply | None:
            if asked.path == "/v1/embeddings" and "bad" in asked.body["input"]:
                return error(status, "one of these")
            return None

        texts: list[str | None] = ["a", "b", "bad", "c", "d"]
        rows = run(scripted_server(answer).url, texts, EmbedJob, options={"n_parallel": 1}, max_retries=1)
        assert types(rows) == [None, None, "request_refused" if status == 400 else "http_error", None, None]

    def test_a_text_that_ends_the_connection_does_so_alone_the_second_time(
        self, run: Run, scripted_server: Start
    ) -> None:
        def answer(asked: Asked) -> Reply | None:
            return Reply(reset=True) if asked.method == "POST" and "bad" in asked.body["input"] else None

        texts: list[str | None] = ["a", "b", "bad", "c", "d"]
        server = scripted_server(answer)
        rows = run(server.url, texts, EmbedJob, options={"n_parallel": 1}, max_retries=1)
        assert types(rows) == [None, None, "http_error", None, None]
        with_bad = [asked.body["input"] for asked in server.asked if "bad" in (asked.body or {}).get("input", ())]
        assert len(with_bad[0]) > 1
        assert set(map(tuple, with_bad[1:])) == {("bad",)}  # a kept connection is given up once before it is an error

    def test_texts_that_failed_once_go_alone(self, scripted_server: Start) -> None:
        server = scripted_server()
        job = make_job(server.url, EmbedJob)
        settings = EngineSettings(task="embed", model=MODEL, options=job.engine_options, settings=job.engine_settings())
        engine = OpenAiEngine(settings)
        engine.run([Request(0, 1, "a"), Request(1, 2, "b"), Request(2, 1, "c"), Request(3, 3, "d")])
        engine.close()
        assert [asked.body["input"] for asked in server.asked[-3:]] == [["a", "c"], ["b"], ["d"]]

    def test_a_server_that_knows_neither_base64_nor_lists_gets_numbers_one_by_one(
        self, run: Run, scripted_server: Start
    ) -> None:
        def answer(asked: Asked) -> Reply | None:
            if asked.path != "/v1/embeddings":
                return None
            if "encoding_format" in asked.body or len(asked.body["input"]) > 1:
                return error(422, "too modern")
            return None

        rows = run(scripted_server(answer).url, ["a", "b c"], EmbedJob)
        assert types(rows) == [None, None]
        assert [row["prompt_tokens"] for row in rows] == [1, 2]

    def test_a_vector_of_another_length_is_an_error_of_its_row(self, run: Run, scripted_server: Start) -> None:
        def answer(asked: Asked) -> Reply | None:
            if asked.path == "/v1/embeddings" and asked.body["input"] == ["bad"]:
                return Reply(body={"data": [{"index": 0, "embedding": [1.0]}]})
            return None

        rows = run(scripted_server(answer).url, ["a", "bad"], EmbedJob, options={"rows_per_call": 1}, max_retries=0)
        assert types(rows) == [None, "engine_error"]
        assert f"a vector of 1 numbers, after {DIMENSIONS}" in rows[1]["error"]

    def test_a_given_length_spares_the_question_for_it(self, run: Run, scripted_server: Start) -> None:
        server = scripted_server()
        run(server.url, ["a"], EmbedJob, options={"dimensions": DIMENSIONS})
        embedded = len(server.asked)
        run(server.url, ["a"], EmbedJob, options={"dimensions": DIMENSIONS})  # up to date: nobody is asked
        assert len(server.asked) == embedded
        assert [asked.body["input"] for asked in server.asked if asked.path.endswith("embeddings")][-1] == ["a"]


class TestAcrossServers:
    def test_a_server_that_dies_ends_the_task_and_another_goes_on(self, run: Run, scripted_server: Start) -> None:
        texts: list[str | None] = [f"row {number}" for number in range(300)]
        lock, answered = threading.Lock(), 0

        def answer(asked: Asked) -> Reply | None:
            nonlocal answered
            if asked.method != "POST" or asked.text == "Say hello.":
                return None
            with lock:
                answered += 1
                return error(502, "its model is gone") if answered > 100 else None

        dying, sound = scripted_server(answer), scripted_server()
        with pytest.raises(
            EngineFailedError, match=r"server of the engine 'openai' is not working: .*its model is gone"
        ):
            run(dying.url, texts, max_retries=0, chunk_rows=20)
        rows = run(sound.url, texts, max_retries=0, chunk_rows=20)
        assert [row["response"] for row in rows] == texts
        assert run.manifest is not None
        assert run.manifest.resumed_rows >= 80
        assert len(sound.texts()) == 300 - run.manifest.resumed_rows

    def test_endpoint_and_key_are_no_part_of_the_fingerprint_and_the_models_name_is(self) -> None:
        def fingerprint(url: str, **arguments: Any) -> str:
            job = make_job(url, **arguments)
            return job.request_fingerprint(model_sha256=job.model)

        first = fingerprint("http://one:1/v1", options={"api_key": "a"})
        assert fingerprint("https://two:2/x", options={"api_key": "b", "n_parallel": 3}) == first
        assert fingerprint("http://one:1/v1", model="another") != first
        assert fingerprint("http://one:1/v1", options={"query": {"v": "2"}, "headers": {"api-key": "a"}}) == first
        low, high = ({"extra_body": {"reasoning_effort": effort}} for effort in ("low", "high"))
        assert fingerprint("http://one:1/v1", options=low) == fingerprint("http://two:2/v1", options=low) != first
        assert fingerprint("http://one:1/v1", options=low) != fingerprint("http://one:1/v1", options=high)


class TestAdditions:
    """What one server wants and others do not know."""

    OPTIONS: ClassVar[dict[str, Any]] = {
        "query": {"api-version": "2024-10-21", "sig": "query-key-do-not-show"},
        "headers": {"api-key": "header-key-do-not-show", "X-Team": "search"},
        "extra_body": {"reasoning_effort": "low", "provider": {"order": ["a"]}},
    }

    @pytest.mark.parametrize("kind", [GenerateJob, EmbedJob])
    def test_they_are_in_each_request(
        self, run: Run, scripted_server: Start, monkeypatch: pytest.MonkeyPatch, kind: type[Job]
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-for-somebody-else")

        def answer(asked: Asked) -> Reply | None:
            path, _, query = asked.path.partition("?")
            assert query == "api-version=2024-10-21&sig=query-key-do-not-show"
            return usual(replace(asked, path=path))

        server = scripted_server(answer)
        arguments = {"text_column": "text"} if kind is EmbedJob else {}
        rows = run(server.url, ["one"], kind, options=self.OPTIONS, **arguments)
        assert types(rows) == [None]
        assert {asked.headers["api-key"] for asked in server.asked} == {"header-key-do-not-show"}
        assert not any("Authorization" in asked.headers for asked in server.asked)
        posted = [asked.body for asked in server.asked if asked.body]
        assert all(body["provider"] == {"order": ["a"]} and body["reasoning_effort"] == "low" for body in posted)

    def test_keys_among_them_are_shown_nowhere(
        self, run: Run, scripted_server: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        options = {
            **self.OPTIONS,
            "headers": {**self.OPTIONS["headers"], "X-Gateway": "Bearer gateway-token-do-not-show"},
            "extra_body": {"routes": [{"api_key": "body-key-do-not-show", "stop_token": "</s>"}]},
        }

        def answer(asked: Asked) -> Reply | None:
            path, _, query = asked.path.partition("?")
            if asked.method == "POST" and asked.text == "bad":
                return error(
                    400,
                    f"{query}, {asked.headers['X-Gateway'].split()[1]}, {asked.body['routes']} and "
                    f"{asked.headers['api-key']} do not go together",
                )
            return usual(replace(asked, path=path))

        job = make_job("http://127.0.0.1:1", options=options)
        rows = run(scripted_server(answer).url, ["one", "bad"], options=options, max_retries=0)
        assert "*** do not go together" in rows[1]["error"]
        assert "</s>" in rows[1]["error"]
        assert run.manifest is not None
        told = f"{job!r} {vars(job)} {json.dumps(run.manifest.to_json())} {rows} {caplog.text}"
        assert "do-not-show" not in told
        assert b"do-not-show" not in run.target.read_bytes()

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"query": "api-version=1"}, "'query'.*a dictionary of names and texts"),
            ({"query": {"a": 1}}, "'query'"),
            ({"headers": {"a b": "secret-1"}}, "'headers'.*not shown here"),
            ({"headers": {"a": "secret-1\r\nHost: x"}}, "'headers'.*not shown here"),
            ({"headers": {"Content-Length": "1"}}, "'Content-Length', which the client writes itself"),
            ({"extra_body": {"messages": []}}, "'messages', which the job decides"),
            ({"extra_body": ["a"]}, "must be a dictionary of further fields"),
            ({"extra_body": {"a": float("nan")}}, "cannot be written as JSON"),
        ],
    )
    def test_what_cannot_be_sent_is_refused(self, options: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ConfigurationError, match=sentence) as caught:
            make_job("http://127.0.0.1:1", options=options)
        assert "secret-1" not in str(caught.value)


class TestSecrets:
    KEY = "sk-do-not-show-me"

    def test_a_job_does_not_show_its_key(self) -> None:
        job = make_job("http://127.0.0.1:1", options={"api_key": self.KEY})
        assert self.KEY not in f"{job!r} {job!s} {job.engine_options} {vars(job)}"
        assert "***" in repr(job)
        assert job.engine_options["api_key"] == self.KEY

    @pytest.mark.parametrize("status", [200, 401, 500])
    def test_it_reaches_the_server_and_nothing_else(
        self, run: Run, scripted_server: Start, caplog: pytest.LogCaptureFixture, status: int
    ) -> None:
        caplog.set_level(logging.DEBUG)

        def answer(asked: Asked) -> Reply | None:
            spoils = status != 200 and asked.method == "POST" and asked.text == "bad"
            return error(status, f"you came with {asked.headers['Authorization']}") if spoils else None

        server = scripted_server(answer)
        rows = run(server.url, ["one", "bad"], options={"api_key": self.KEY}, max_retries=0)
        assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {self.KEY}"}
        assert run.manifest is not None
        assert self.KEY not in json.dumps(run.manifest.to_json())
        assert self.KEY not in repr(rows) + caplog.text
        assert self.KEY.encode() not in run.target.read_bytes()


def test_an_overdue_answer_is_no_longer_wanted(scripted_server: Start, run: Run, eventually: Any) -> None:
    """The connection is closed, which is how a server learns that it may stop."""
    let_go = threading.Event()

    def answer(asked: Asked) -> Reply | None:
        if asked.method == "POST" and asked.text == "slow":
            let_go.wait(20)
            return Reply(body=b" " * 50_000_000)  # more than buffers hold: writing it fails once nobody reads
        return None

    server = scripted_server(answer)
    rows = run(server.url, ["slow"], row_timeout=0.5, max_retries=0)
    let_go.set()
    assert types(rows) == ["timeout"]
    eventually(lambda: server.abandoned == 1)
