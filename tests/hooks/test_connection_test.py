"""Trying out a connection: real workers, and a real HTTP server for the endpoint."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from airflow_mullama.demo.airflow_server import free_port
from airflow_mullama.errors import ConfigurationError, MullamaError
from airflow_mullama.hooks.connection_test import call_endpoint, load_model
from airflow_mullama.storage.filesystems import resolve_location

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
        elif self.path == "/broken/models":
            self._answer(500, {})
        else:
            self._answer(404, {})

    def _answer(self, status: int, body: Any) -> None:
        content = b"<html>" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_an_endpoint_says_which_models_it_has(api: str, path: str) -> None:
    said = call_endpoint(api + path, KEY, None, 10)
    assert said == f"{api}/v1/models answers; it has 7 model(s): model-0, model-1, model-2, model-3, model-4 …."
    assert call_endpoint(api + path, KEY, "model-6", 10) == said


@pytest.mark.parametrize(
    ("path", "key", "model", "sentence"),
    [
        ("/v1", KEY, "gpt", "answers, and has no model 'gpt'; it has: model-0"),
        ("/v1", "sk-another", None, "refused the API key (401): check the field 'API key'"),
        ("/v1", None, None, "refused a connection without an API key (401)"),
        ("/elsewhere", KEY, None, "/elsewhere/v1/models answered 404: the endpoint is no OpenAI-compatible API"),
        ("/odd", KEY, None, "answered JSON without a list of models"),
        ("/page", KEY, None, "answered something that is no JSON"),
        ("/broken", KEY, None, "answered 500"),
    ],
)
def test_what_is_wrong_with_an_endpoint_is_one_sentence(
    api: str, path: str, key: str | None, model: str | None, sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        call_endpoint(api + path, key, model, 10)
    assert sentence in str(caught.value)
    assert "sk-" not in str(caught.value)


def test_an_endpoint_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ConfigurationError, match=r"does not answer: .*refused"):
        call_endpoint(f"http://127.0.0.1:{free_port()}/v1", None, None, 10)


def test_a_connection_without_an_endpoint_cannot_call_one() -> None:
    with pytest.raises(ConfigurationError, match="has no endpoint: set the field 'Endpoint'"):
        call_endpoint(None, KEY, None, 10)


@pytest.mark.integration
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
def test_a_model_that_takes_too_long(no_worker_left: None) -> None:
    arguments = {"model": "demo:ticket-tagger", "engine": "auto", "engine_options": {}}
    with pytest.raises(MullamaError, match="was not loaded within 0 s; try a smaller one"):
        load_model(arguments, resolve_location, 0.0)


def test_a_redirect_is_not_followed_because_the_key_is_for_the_address_that_was_named(api: str) -> None:
    with pytest.raises(ConfigurationError, match="moved/models redirects to /v1/models; give the final address"):
        call_endpoint(f"{api}/moved", KEY, None, 10)
