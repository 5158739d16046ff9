"""Servers for tests of the engine ``openai``: llama.cpp's own, and a small one that misbehaves as a test says."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import struct
import threading
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

MODEL = "test-model"
DIMENSIONS = 6


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def text(self) -> str:
        """What a generation asks."""
        asked = self.body["messages"][-1]["content"] if "messages" in self.body else self.body["prompt"]
        return "".join(part.get("text", "") for part in asked) if isinstance(asked, list) else str(asked)

    @property
    def pictures(self) -> list[tuple[str, bytes]]:
        """The pictures of a generation's last message, each with its media type."""
        content = self.body["messages"][-1]["content"]
        urls = (
            [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
            if isinstance(content, list)
            else []
        )
        parts = [url.removeprefix("data:").partition(";base64,") for url in urls]
        return [(media_type, base64.b64decode(data)) for media_type, _, data in parts]


@dataclass(frozen=True)
class Reply:
    """What a test wants answered.

    Args:
        status, headers: of HTTP.
        body: JSON, or bytes as they are.
        reset: end the connection with a reset instead.
        cut: leave out this many bytes at the end, and end the connection.
        close: end the connection afterwards, without saying so.
    """

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False
    cut: int = 0
    close: bool = False


def error(status: int, message: str, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"error": {"message": message, "type": "test", "code": None}}, named)


def usual(asked: Asked) -> Reply:
    """What a sound server answers: the request's own text, or vectors made of its hash."""
    if asked.path == "/v1/models":
        return Reply(body={"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "somebody"}]})
    if asked.path == "/v1/embeddings":
        data = [
            {"index": place, "embedding": vector_of(text, packed=asked.body.get("encoding_format") == "base64")}
            for place, text in enumerate(asked.body["input"])
        ]
        return Reply(body={"data": data, "usage": {"prompt_tokens": sum(map(count, asked.body["input"]))}})
    if asked.path in ("/v1/chat/completions", "/v1/completions"):
        answer = "{}" if "response_format" in asked.body else asked.text
        return generation(asked, answer)
    return error(404, f"no such path: {asked.path}")


def generation(asked: Asked, answer: str, **choice: Any) -> Reply:
    said = {"message": {"role": "assistant", "content": answer}} if "messages" in asked.body else {"text": answer}
    usage = {"prompt_tokens": count(asked.text), "completion_tokens": count(answer)}
    return Reply(body={"choices": [{"index": 0, "finish_reason": "stop", **said, **choice}], "usage": usage})


def count(text: str) -> int:
    return len(text.split())


def numbers_of(text: str) -> np.ndarray:
    digest = hashlib.shake_128(text.encode()).digest(4 * DIMENSIONS)
    return (np.frombuffer(digest, np.uint32).astype(np.float64) / 2**31 - 1).astype(np.float32)


def vector_of(text: str, *, packed: bool) -> str | list[float]:
    numbers = numbers_of(text)
    return base64.b64encode(numbers.tobytes()).decode() if packed else [float(number) for number in numbers]


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the usual 5, connections that come at once are reset


class ScriptedServer:
    """Listens on loopback; ``answer`` may return ``None`` for what is usual.

    Attributes:
        asked: every request, in order of arrival.
        connections: how many were opened.
        abandoned: answers that nobody wanted any more.
    """

    def __init__(self, answer: Callable[[Asked], Reply | None] = lambda asked: None, port: int = 0) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.connections = self.abandoned = 0
        self._lock = threading.Lock()
        self._server = _Listener(("127.0.0.1", port), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def texts(self, kind: str = "completions") -> list[str]:
        """What rows asked, in order of arrival; without trials."""
        with self._lock:
            asked = [one for one in self.asked if one.path.endswith(kind)]
        return [one.text for one in asked if one.text != "Say hello."]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                with outer._lock:
                    outer.connections += 1
                super().setup()

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: Any) -> None:
                asked = Asked(self.command, self.path, dict(self.headers), body)
                with outer._lock:
                    outer.asked.append(asked)
                reply = outer.answer(asked) or usual(asked)
                content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                if reply.reset:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                    return
                try:
                    self.send_response(reply.status)
                    for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) - reply.cut])
                except ConnectionError:
                    self.close_connection = True
                    outer.abandoned += 1
                if reply.cut or reply.close:
                    self.close_connection = True

            def finish(self) -> None:
                with contextlib.suppress(OSError, ValueError):  # the connection may be gone
                    super().finish()

        return Handler


def start_llama_server(
    model: Path, *, name: str, embedding: bool = False, api_key: str | None = None, mmproj: Path | None = None
) -> Any:
    """llama.cpp's HTTP server, as ``llama-server`` starts it, in this process and on a random port."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {name}
    parameters.n_parallel = 4
    parameters.n_ctx = 4 * 512
    parameters.n_batch = parameters.n_ubatch = 512
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.hostnames = ["127.0.0.1"]
    parameters.api_keys = [api_key] if api_key else []
    parameters.embedding = embedding
    if mmproj is not None:
        parameters.mmproj.path = str(mmproj)
    if embedding:
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    parameters.fit_params = parameters.warmup = parameters.ui = False
    parameters.cache_ram_mib = 0
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    # One that is ended before it works never ends: see LocalServer.wait_until_it_works.
    slots = urllib.request.Request(f"{server.listening_address}/slots", headers={"Authorization": f"Bearer {api_key}"})
    with urllib.request.urlopen(slots) as answer:
        answer.read()
    return server
