"""Trying out a connection: real workers, and a real HTTP server for the endpoint."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from airflow_mullama.demo.airflow.server import free_port
from airflow_mullama.errors import (
    ConfigurationError,
    CredentialsRefusedError,
    EndpointUnavailableError,
    InputNotFoundError,
    ModelLoadError,
    ModelNotFoundError,
    MullamaError,
)
from airflow_mullama.hooks import connection_trial
from airflow_mullama.hooks.connection_trial import call_endpoint, load_model
from airflow_mullama.storage.filesystems import Location, resolve_location

KEY = "sk-the-right-key"


class Api(BaseHTTPRequestHandler):
    """What an OpenAI-compatible server answers when it is asked for its models."""

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            self._answer(401, {"error": {"message": "no"}})
        elif self.path == "/v1/models":
            self._answer(200, {"object": "list", "data": [{"id": f"model-{number}"} for number in range(7)]})
        elif self.path == "/odd/models":
            self._answer(200, ["something else"])
        elif self.path == "/page/models":
            self._answer(200, None)
        elif self.path == "/moved/models":
            self.send_response(302)
            self.send_header("Location", "/v1/models")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/endless/models":
            self.send_response(200)
            self.flush_headers()
            while not self.server.ended.wait(0.02):  # type: ignore[attr-defined]
                self.wfile.write(b"X-Header: more\r\n")
        elif self.path == "/deep/models":
            self._answer(200, b"[" * 1_000_000)
        elif self.path == "/names/models":
            self._answer(200, {"data": [{"id": name} for name in ("\x1b[2J", KEY, "x" * 1_000_000)]})
        elif self.path == "/broken/models":
            self._answer(500, {})
        elif self.path == "/hidden/models":
            self._answer(403, {"error": {"message": "no list for this key"}})
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = (self.path.rpartition("/")[2], asked["model"])
        if self.path.startswith("/elsewhere") or asked["model"] == "absent":
            self._answer(404, {"error": {"message": "nothing here"}})
        elif asked["model"] == "forbidden":
            self._answer(403, {"error": {"message": "not this model"}})
        elif asked["model"] == "thinker" and "max_tokens" in asked:
            self._answer(400, {"error": {"message": "use max_completion_tokens instead"}})
        elif kind in (("completions", "writer"), ("completions", "thinker"), ("embeddings", "encoder")):
            self._answer(200, {})
        else:
            self._answer(400, {"error": {"message": "not what this model is for"}})

    def _answer(self, status: int, body: Any) -> None:
        content = b"<html>" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # nobody there: a connection that used it would fail
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        server.ended = threading.Event()  # type: ignore[attr-defined]
        yield f"http://127.0.0.1:{server.server_port}"
        server.ended.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


def call(endpoint: str, key: str | None, model: str | None) -> str:
    options = {"endpoint": endpoint, **({"api_key": key} if key else {})}
    return call_endpoint(options, model, 10)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_an_endpoint_says_which_models_it_has(api: str, path: str) -> None:
    said = call(api + path, KEY, None)
    assert said == f"{api}/v1/models answers; it has 7 model(s): model-0, model-1, model-2, model-3, model-4 …."
    assert call(api + path, KEY, "model-6") == said


@pytest.mark.parametrize(
    ("path", "key", "model", "sentence"),
    [
        ("/v1", KEY, "gpt", "answers, and has no model 'gpt'; it has: model-0"),
        ("/v1", "sk-another", None, "refused the API key (401): check the field 'API key'"),
        ("/v1", None, None, "refused a connection without an API key (401)"),
        ("/elsewhere", KEY, None, "/elsewhere/models answered 404: the endpoint is no OpenAI-compatible API"),
        ("/odd", KEY, None, "gives no list of models"),
        ("/page", KEY, None, "gives no list of models"),
        ("/broken", KEY, None, "does not work now (500: "),
    ],
)
def test_what_is_wrong_with_an_endpoint_is_one_sentence(
    api: str, path: str, key: str | None, model: str | None, sentence: str
) -> None:
    with pytest.raises(MullamaError) as caught:
        call(api + path, key, model)
    assert sentence in str(caught.value)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(("path", "status"), [("/hidden", 403), ("/unlisted", 404)])
@pytest.mark.parametrize(("model", "does"), [("writer", "generates"), ("thinker", "generates"), ("encoder", "embeds")])
def test_a_model_whose_list_the_key_does_not_get_is_asked_itself(
    api: str, path: str, status: int, model: str, does: str
) -> None:
    said = call(api + path, KEY, model)
    assert said == f"{api}{path}/models gives no list of models ({status}), and {model!r} {does}."


@pytest.mark.parametrize(
    ("path", "model", "error", "sentence"),
    [
        ("/hidden", None, CredentialsRefusedError, r"refused the API key \(403\): check .*, or name a model, which is"),
        ("/hidden", "forbidden", CredentialsRefusedError, r"refuses the API key, .* \(403: not this model\)"),
        ("/hidden", "absent", ModelNotFoundError, r"has no model 'absent' for this task \(404: nothing here\)"),
        ("/hidden", "other", ModelLoadError, r"\(400: not what this model is for\)"),
        (
            "/elsewhere",
            "writer",
            ConfigurationError,
            "answered 404, and the model 'writer' likewise: .* check its path",
        ),
        ("/elsewhere", None, ConfigurationError, "check its path; if it only has no such list, name a model"),
    ],
)
def test_without_a_list_what_is_wrong_is_said_of_the_model(
    api: str, path: str, model: str | None, error: type[MullamaError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        call(api + path, KEY, model)


def test_an_endpoint_where_nobody_listens() -> None:
    with pytest.raises(EndpointUnavailableError, match=r"cannot be reached .*refused"):
        call(f"http://127.0.0.1:{free_port()}/v1", None, None)


def test_a_connection_without_an_endpoint_cannot_call_one() -> None:
    with pytest.raises(ConfigurationError, match="has no endpoint: set the field 'Endpoint'"):
        call_endpoint({"api_key": KEY}, None, 10)


@pytest.mark.integration
@pytest.mark.usefixtures("workers_by_command")  # such a worker ends with the thread that started it
@pytest.mark.parametrize(
    ("model", "said"), [("echo", "echo .* loaded 'echo'"), ("demo:ticket-tagger", "llamacpp .* loaded 'demo:ticket-t")]
)
def test_a_model_is_loaded_by_a_worker_that_is_gone_afterwards(
    model: str, said: str, started_workers: Any, no_worker_left: None
) -> None:
    options = {"n_parallel": 3}
    sentence = load_model({"model": model, "engine": "auto", "engine_options": options}, resolve_location, 120)
    assert re.match(said, sentence)
    assert "3 rows at once" in sentence
    assert len(started_workers) == 1


@pytest.mark.integration
def test_a_model_that_takes_too_long(no_worker_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"model": "demo:ticket-tagger", "engine": "auto", "engine_options": {}}
    monkeypatch.setattr(connection_trial, "run_in_background", lambda work, check, name: work(check))
    with pytest.raises(MullamaError, match="was not loaded within 0 s; try a smaller one"):
        load_model(arguments, resolve_location, 0.0)


def test_a_store_that_does_not_give_the_model_is_not_waited_for_without_end() -> None:
    answered = threading.Event()

    def silent(url: str) -> Location:
        answered.wait()
        raise InputNotFoundError(url)

    arguments = {"model": "s3://bucket/model.gguf", "engine": "llamacpp", "engine_options": {}}
    with pytest.raises(MullamaError, match=r"'s3://bucket/model.gguf' was not fetched and checked within 0.3 s; that"):
        load_model(arguments, silent, 0.3)
    answered.set()


def test_a_redirect_is_not_followed_because_the_key_is_for_the_address_that_was_named(api: str) -> None:
    with pytest.raises(ConfigurationError, match=r"redirects \(302\), which is not followed"):
        call(f"{api}/moved", KEY, None)


@pytest.mark.parametrize("key", [f"{KEY}\nX: y", f"{KEY}\x00", f"{KEY}\u2013"])
def test_a_key_that_http_refuses_is_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        call(f"http://127.0.0.1:{free_port()}/v1", key, None)
    assert "the-right-key" not in str(caught.value)


def test_an_answer_without_end_ends_with_the_time_that_was_given(api: str) -> None:
    with pytest.raises(EndpointUnavailableError, match="did not answer in time"):
        call_endpoint({"endpoint": f"{api}/endless", "api_key": KEY}, None, 0.3)


def test_an_answer_of_deep_brackets_is_no_list(api: str) -> None:
    with pytest.raises(ConfigurationError, match="gives no list of models"):
        call(f"{api}/deep", KEY, None)


def test_names_of_models_are_printable_and_short(api: str) -> None:
    said = call(f"{api}/names", KEY, None)
    assert "\\x1b[2J, ***, xxx" in said
    assert "\x1b" not in said
    assert len(said) < 1000
