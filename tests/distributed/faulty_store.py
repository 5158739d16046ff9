"""An S3 server on a bad day: stands before a real one, answers some requests with 503 and breaks some connections."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import socket
import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

# Of all requests, by their number. Primes, so that every kind of request meets every kind of fault.
UNAVAILABLE_EVERY, RESET_EVERY, RESET_AFTER_EVERY = 101, 131, 151
SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
# Of a connection, not of what it carries (RFC 9110, section 7.6.1).
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server", "expect"}


@dataclass(frozen=True)
class Request:
    """What was asked, and what became of it: ``answered``, ``503``, ``reset``, or ``reset after`` the server did it."""

    method: str
    path: str
    fate: str


class FaultyStore:
    """A context manager: the server stands at :attr:`url` while it lasts.

    Args:
        server: URL of the real one.
    """

    def __init__(self, server: str) -> None:
        self.requests: list[Request] = []
        self.is_down = False
        self._count = itertools.count(1)
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"store": self, "server_address": urlsplit(server).netloc})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultyStore:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="faulty-store").start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fates(self) -> dict[str, int]:
        """How many requests met what."""
        with self._lock:
            fates = [request.fate for request in self.requests]
        return {fate: fates.count(fate) for fate in sorted(set(fates))}

    def fate(self, method: str, path: str) -> str:
        with self._lock:
            number = next(self._count)
            if self.is_down or number % UNAVAILABLE_EVERY == 0:
                fate = "503"
            elif number % RESET_EVERY == 0:
                fate = "reset"
            elif number % RESET_AFTER_EVERY == 0:
                fate = "reset after"
            else:
                fate = "answered"
            self.requests.append(Request(method, unquote(path), fate))
        return fate


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: FaultyStore
    server_address: str

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *arguments: Any) -> None:
        """Nothing: what was asked is remembered by the store."""

    def _serve(self) -> None:
        body = self._body()
        fate = self.store.fate(self.command, self.path)
        if fate == "503":
            self._answer(503, "Slow Down", [("Content-Type", "application/xml")], SLOW_DOWN)
            return
        if fate == "reset":
            self._reset()
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        server = http.client.HTTPConnection(self.server_address, timeout=60)
        try:
            server.request(self.command, self.path, body, headers)
            answer = server.getresponse()
            content = answer.read()
        finally:
            server.close()
        if fate == "reset after":
            self._reset()
            return
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self._answer(answer.status, answer.reason, answer.getheaders(), content, length)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - the names that the base class calls

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _answer(
        self, status: int, reason: str, headers: list[tuple[str, str]], content: bytes, length: str | None = None
    ) -> None:
        self.send_response(status, reason)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        """End the connection by RST, not by FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())  # closing the socket object would end the stream before
        self.close_connection = True
