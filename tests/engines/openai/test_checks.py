"""What is found out about a server before a row is spent, each as one sentence."""

from __future__ import annotations

import base64
import itertools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai_server import DIMENSIONS, MODEL, Asked, Reply, ScriptedServer, error, generation, numbers_of

from airflow_mullama import EmbedJob, GenerateJob, run_partition
from airflow_mullama.engines.base import EngineInfo, EngineSettings
from airflow_mullama.engines.openai.checks import describe_server
from airflow_mullama.engines.openai.engine import OpenAiEngine
from airflow_mullama.engines.openai.http_client import Endpoint
from airflow_mullama.errors import (
    ConfigurationError,
    CredentialsRefusedError,
    EndpointUnavailableError,
    ModelLoadError,
    ModelNotFoundError,
    MullamaError,
)
from airflow_mullama.jobs.classify import ClassifyJob
from airflow_mullama.jobs.job import Job

pytestmark = pytest.mark.integration

Start = Callable[..., ScriptedServer]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.fixture
def attempt(tmp_path: Path, write_parquet: Callable[..., Path], no_worker_left: None) -> Callable[..., Any]:
    """Run a job on three rows."""

    def run(url: str, job: type[Job] = GenerateJob, *, options: dict[str, Any] | None = None, **arguments: Any) -> Any:
        defaults = {"text_column": "text"} if job is EmbedJob else {"prompt_column": "text"}
        made = job(
            **{"model": MODEL, **defaults, **arguments},
            engine="openai",
            engine_options={"endpoint": url, "max_wait": 0, **(options or {})},
        )
        source = write_parquet(tmp_path / "in.parquet", ["one", "two", "three"])
        return run_partition(made, source, tmp_path / "out.parquet", listeners=[])

    return run


def pack(numbers: np.ndarray, how: str) -> str:
    """A vector in base64, as it should not be."""
    if how == "longer":
        numbers = np.append(numbers, np.zeros(4, np.float32))
    elif how == "shorter":
        numbers = numbers[:-1]
    elif how == "normalised":
        numbers = numbers / np.linalg.norm(numbers)
    elif how == "another type":
        numbers = numbers.astype(np.float16)
    return "not base64" if how == "not base64" else base64.b64encode(numbers.tobytes()).decode()


def started(url: str, job: Job) -> EngineInfo:
    """What the engine says of itself, started in this process."""
    settings = EngineSettings(
        task=job.task, model=job.model, options={"endpoint": url, "max_wait": 0}, settings=job.engine_settings()
    )
    engine = OpenAiEngine(settings)
    engine.close()
    return engine.info


def generate_job(**arguments: Any) -> GenerateJob:
    return GenerateJob(
        **{"model": MODEL, "prompt_column": "text", **arguments},
        engine="openai",
        engine_options={"endpoint": "http://x"},
    )


def only(path: str, reply: Reply) -> Callable[[Asked], Reply | None]:
    return lambda asked: reply if asked.path == path else None


@pytest.mark.parametrize(
    ("path", "reply", "error_class", "sentence"),
    [
        ("/v1/models", error(401, "who are you?"), CredentialsRefusedError,
         r"refuses the API key, or has none from us \(401: who are you\?\): give the right one as api_key"),
        ("/v1/chat/completions", error(403, "not you"), CredentialsRefusedError, r"\(403: not you\)"),
        ("/v1/models", Reply(body={"data": []}), EndpointUnavailableError, "has no model: it may still be loading"),
        ("/v1/models", Reply(body=b"<html>hello</html>"), ConfigurationError, "is no OpenAI-compatible server"),
        ("/v1/models", Reply(body={"models": []}), ConfigurationError, "check host, port and path"),
        ("/v1/models", Reply(301, headers={"Location": "https://x"}), ConfigurationError, r"redirects \(301\)"),
        ("/v1/models", error(500, "out of order"), EndpointUnavailableError, "does not work now .500: out of order"),
        ("/v1/models", error(503, "Loading model"), EndpointUnavailableError, "503: Loading model"),
        ("/v1/models", Reply(reset=True), EndpointUnavailableError, "cannot be reached"),
        ("/v1/chat/completions", error(401, "not for chat"), CredentialsRefusedError, "401: not for chat"),
        ("/v1/chat/completions", error(404, "gone"), ModelNotFoundError, r"no model 'test-model' for this task \(404"),
        ("/v1/chat/completions", error(400, "no chat template"), ModelLoadError,
         r"refuses the requests of this job, before any row \(400: no chat template\)"),
        ("/v1/chat/completions", error(429, "later"), EndpointUnavailableError, "429: later"),
        ("/v1/chat/completions", error(500, "failed"), EndpointUnavailableError, "500: failed"),
        ("/v1/chat/completions", Reply(body=b"hello"), ModelLoadError, "not as it should"),
        ("/v1/chat/completions", Reply(reset=True), EndpointUnavailableError, "cannot be reached"),
    ],
)  # fmt: skip
def test_what_cannot_work_fails_before_a_row_is_spent(
    scripted_server: Start,
    attempt: Any,
    path: str,
    reply: Reply,
    error_class: type[MullamaError],
    sentence: str,
) -> None:
    server = scripted_server(only(path, reply))
    with pytest.raises(error_class, match=sentence) as caught:
        attempt(server.url)
    assert type(caught.value) is error_class
    assert "\n" not in str(caught.value)
    assert server.texts() == []


def test_nobody_listening_is_one_sentence(attempt: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(EndpointUnavailableError, match=f"http://127.0.0.1:{port}/v1 cannot be reached .*refused"):
        attempt(f"http://127.0.0.1:{port}")


def test_a_model_the_server_lacks_is_named_with_those_it_has(tagger_server: str, attempt: Any) -> None:
    with pytest.raises(ModelNotFoundError, match=r"has no model 'gpt-5'; it has: tagger\."):
        attempt(tagger_server, model="gpt-5")


def test_a_real_server_that_wants_another_key_says_so(embedding_server: str, attempt: Any) -> None:
    with pytest.raises(CredentialsRefusedError, match=r"401: Invalid API Key") as caught:
        attempt(embedding_server, EmbedJob, model="tiny", options={"api_key": "guess-me"})
    assert "guess-me" not in str(caught.value)


def test_a_real_server_that_does_not_embed_says_so(tagger_server: str, attempt: Any) -> None:
    with pytest.raises(ModelLoadError, match=r"501: This server does not support embeddings"):
        attempt(tagger_server, EmbedJob, model="tagger")


@pytest.mark.parametrize("reply", [error(404, "no such page"), error(403, "not this key"), Reply(body=[{"id": MODEL}])])
def test_a_server_without_a_usual_list_of_models_is_tried(scripted_server: Start, attempt: Any, reply: Reply) -> None:
    server = scripted_server(only("/v1/models", reply))
    assert attempt(server.url).status_counts == {"success": 3}


def test_a_gateway_that_lists_less_than_it_has_is_asked_for_the_model(scripted_server: Start, attempt: Any) -> None:
    def answer(asked: Asked) -> Reply | None:
        return Reply(body={"id": "a/b"}) if asked.path == "/v1/models/a%2Fb" else None

    server = scripted_server(answer)
    assert attempt(server.url, model="a/b").status_counts == {"success": 3}


def test_a_gpu_cannot_be_required_of_a_server(scripted_server: Start, attempt: Any) -> None:
    with pytest.raises(ConfigurationError, match="require_gpu=True and engine='openai' do not go together"):
        attempt(scripted_server().url, require_gpu=True)


class TestGenerationTrial:
    def test_a_schema_the_server_holds_to_is_constraining(self, scripted_server: Start) -> None:
        info = started(scripted_server().url, generate_job(output_schema=SCHEMA))
        assert info.constrained is True
        assert info.notes == ()

    def test_a_schema_the_server_ignores_is_not(self, scripted_server: Start) -> None:
        server = scripted_server(lambda asked: generation(asked, "Hello!") if asked.method == "POST" else None)
        info = started(server.url, generate_job(output_schema=SCHEMA))
        assert info.constrained is False
        assert "decoding is not held to the output schema" in info.notes[0]

    @pytest.mark.parametrize(
        ("accepted", "note"),
        [("loose", "only with strict off"), (None, "refuses response_format")],
    )
    def test_a_schema_the_server_refuses_is_left_out(
        self, scripted_server: Start, accepted: str | None, note: str
    ) -> None:
        def answer(asked: Asked) -> Reply | None:
            schema = (asked.body or {}).get("response_format", {}).get("json_schema")
            if schema is None or (accepted == "loose" and not schema["strict"]):
                return None
            return error(400, "this schema is beyond me")

        info = started(scripted_server(answer).url, generate_job(output_schema=SCHEMA))
        assert info.constrained is False
        assert note in info.notes[0]
        assert "this schema is beyond me" in info.notes[0]

    def test_probabilities_the_server_refuses_are_left_out(self, scripted_server: Start) -> None:
        def answer(asked: Asked) -> Reply | None:
            return error(400, "no logprobs here") if "logprobs" in (asked.body or {}) else None

        job = ClassifyJob(
            model=MODEL, engine="openai", engine_options={"endpoint": "http://x"}, text_column="t", labels=["a", "b"]
        )
        info = started(scripted_server(answer).url, job)
        assert info.constrained is True
        assert "confidence will be null" in info.notes[0]

    def test_a_model_that_knows_max_tokens_by_another_name_gets_it(self, scripted_server: Start, attempt: Any) -> None:
        def answer(asked: Asked) -> Reply | None:
            if "max_tokens" in (asked.body or {}):
                return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
            return None

        server = scripted_server(answer)
        assert attempt(server.url, max_tokens=9).status_counts == {"success": 3}
        assert [asked.body["max_completion_tokens"] for asked in server.asked[-3:]] == [9, 9, 9]

    def test_sampling_that_the_server_refuses_by_name_is_left_out(self, scripted_server: Start, attempt: Any) -> None:
        def answer(asked: Asked) -> Reply | None:
            refused = [name for name in ("temperature", "top_p") if name in (asked.body or {})]
            return error(400, f"Unsupported value: '{refused[0]}' is fixed for this model.") if refused else None

        server = scripted_server(answer)
        assert attempt(server.url).status_counts == {"success": 3}
        assert server.asked[-1].body.keys() & {"temperature", "top_p"} == set()
        notes = started(server.url, generate_job()).notes
        assert [note.partition(",")[0] for note in notes] == [
            "the server refuses temperature",
            "the server refuses top_p",
        ]
        with pytest.raises(ModelLoadError, match="'temperature' is fixed for this model"):
            attempt(server.url, sampling={"temperature": 0.5}, if_exists="overwrite")

    def test_of_two_that_exclude_each_other_one_is_left_out(self, scripted_server: Start, attempt: Any) -> None:
        def answer(asked: Asked) -> Reply | None:
            both = asked.body and {"temperature", "top_p"} <= asked.body.keys()
            return error(400, "temperature and top_p cannot both be given") if both else None

        server = scripted_server(answer)
        assert attempt(server.url, sampling={"temperature": 0.5}).status_counts == {"success": 3}
        assert server.asked[-1].body["temperature"] == 0.5

    def test_a_model_that_answers_with_no_fewer_tokens_is_tried_with_a_rows(
        self, scripted_server: Start, attempt: Any
    ) -> None:
        def answer(asked: Asked) -> Reply | None:
            few = asked.body and asked.body["max_tokens"] < 50
            return error(400, "max_tokens or model output limit was reached before an answer") if few else None

        server = scripted_server(answer)
        assert attempt(server.url, max_tokens=50).status_counts == {"success": 3}
        with pytest.raises(ModelLoadError, match="output limit was reached"):
            attempt(server.url, max_tokens=49, if_exists="overwrite")

    def test_azures_deployments_are_asked_without_a_list(self) -> None:
        endpoint = Endpoint.parse("https://box.openai.azure.com/openai/deployments/d")
        assert describe_server(None, endpoint, "d", None).server == "other"  # type: ignore[arg-type]

    def test_context_and_server_are_recognised(self, tagger_server: str, scripted_server: Start) -> None:
        info = started(tagger_server, generate_job(model="tagger"))
        assert info.n_ctx == 512
        assert "(llama.cpp)" in info.devices[0]
        models = Reply(body={"data": [{"id": MODEL, "owned_by": "vllm", "max_model_len": 8192}]})
        info = started(scripted_server(only("/v1/models", models)).url, generate_job())
        assert (info.n_ctx, "(vLLM)" in info.devices[0]) == (8192, True)

    def test_the_mullama_daemon_is_recognised_and_asked_its_way(self, scripted_server: Start) -> None:
        def answer(asked: Asked) -> Reply | None:
            if asked.path == "/v1/models":
                return Reply(body={"data": [{"id": MODEL, "owned_by": "local"}]})
            if asked.path == "/status":
                return Reply(body={"status": "running", "models_loaded": 1})
            return None

        server = scripted_server(answer)
        info = started(server.url, generate_job(output_schema=SCHEMA, sampling={"top_k": 5}))
        assert "mullama daemon" in info.devices[0]
        assert any("does not read top_k" in note for note in info.notes)
        assert server.asked[-1].body["top_p"] == 0.0
        assert "response_format" not in server.asked[-1].body


class TestEmbeddingTrial:
    @pytest.mark.parametrize(
        ("vectors", "words"),
        [
            (itertools.repeat([0.0, 0.0]), "only zeros"),
            (itertools.repeat([1.0, 2.0]), "different texts have the same one"),
            (itertools.repeat([None, None]), "NaN or infinity"),
            (itertools.cycle([[1.0], [1.0], [1.0, 2.0]]), r"different lengths \(1, 2\)"),
        ],
    )
    def test_vectors_that_cannot_be_right_are_refused(
        self, scripted_server: Start, attempt: Any, vectors: Any, words: str
    ) -> None:
        def answer(asked: Asked) -> Reply | None:
            if asked.path != "/v1/embeddings":
                return None
            data = [{"index": place, "embedding": next(vectors)} for place, _ in enumerate(asked.body["input"])]
            return Reply(body={"data": data})

        with pytest.raises(ModelLoadError, match=f"cannot be right: .*{words}"):
            attempt(scripted_server(answer).url, EmbedJob)

    @pytest.mark.parametrize("packing", ["longer", "shorter", "normalised", "another type", "not base64"])
    def test_base64_is_used_only_where_it_says_the_same_as_numbers(self, scripted_server: Start, packing: str) -> None:
        def answer(asked: Asked) -> Reply | None:
            if asked.path != "/v1/embeddings" or "encoding_format" not in asked.body:
                return None
            packed = [pack(numbers_of(text), packing) for text in asked.body["input"]]
            return Reply(body={"data": [{"index": place, "embedding": text} for place, text in enumerate(packed)]})

        server = scripted_server(answer)
        info = started(
            server.url,
            EmbedJob(model=MODEL, engine="openai", engine_options={"endpoint": server.url}, text_column="text"),
        )
        assert info.dimensions == DIMENSIONS
        assert any("numbers are asked for" in note for note in info.notes)

    def test_a_wrong_length_is_named(self, scripted_server: Start, attempt: Any) -> None:
        server = scripted_server()
        with pytest.raises(ConfigurationError, match=r"\['dimensions'\] is 384 .* have 6 numbers"):
            attempt(server.url, EmbedJob, options={"dimensions": 384})
        with pytest.raises(ConfigurationError, match=r"dimensions is 7 and the vectors of 'test-model' have 6"):
            attempt(server.url, EmbedJob, dimensions=7)

    def test_pooling_is_the_servers_business(self, attempt: Any) -> None:
        with pytest.raises(ConfigurationError, match="the server decides how token vectors become one"):
            attempt("http://127.0.0.1:1", EmbedJob, pooling="mean")


class TestOptions:
    def test_an_endpoint_is_needed(self) -> None:
        from airflow_mullama.run.prepare import prepare_model

        job = GenerateJob(model=MODEL, engine="openai", prompt_column="text")
        with pytest.raises(ConfigurationError, match=r"needs engine_options\['endpoint'\]"):
            prepare_model(job)

    def test_a_key_is_found_in_the_environment(
        self, scripted_server: Start, attempt: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "from-the-usual-variable\n")
        monkeypatch.setenv("OTHER_KEY", "from-the-other")
        sent = []
        for options in ({}, {"api_key_env": "OTHER_KEY"}, {"api_key": "given"}):
            server = scripted_server()
            attempt(server.url, options=options, if_exists="overwrite")
            sent.append({asked.headers["Authorization"] for asked in server.asked})
        assert sent == [{"Bearer from-the-usual-variable"}, {"Bearer from-the-other"}, {"Bearer given"}]

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"api_key": "a b"}, "is not a key"),
            ({"api_key": 12345}, "is not a key"),
            ({"api_key": "a\r\nX-Evil: 1"}, "is not a key"),
            ({"api_key_env": "NO_SUCH_VARIABLE"}, "which is empty or not set here"),
            ({"api_key_env": "sk-12345"}, "must be the name of an environment variable"),
            ({"api_key": "k", "api_key_env": "HOME"}, "not both"),
            ({"ca_file": "/no/such/file"}, "must be a PEM file"),
            ({"server": "ollama"}, "must be one of"),
            ({"n_parallel": 0}, "must be a whole number"),
            ({"dimensions": 5}, "is for embedding"),
            ({"n_gpu_layers": 1}, "which the engine 'openai' does not know"),
        ],
    )
    def test_a_wrong_option_is_one_sentence_that_shows_no_key(
        self, attempt: Any, options: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=sentence) as caught:
            attempt("http://127.0.0.1:1", options=options)
        for secret in ("a b", "12345", "X-Evil"):
            assert secret not in str(caught.value)
