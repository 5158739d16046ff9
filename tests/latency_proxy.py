"""A proxy before an S3 API server: it answers no request sooner than after a latency, and keeps an account of all.

Requests wait independently of each other, so that parallel ones cost one latency together, as with a real store. It
also runs alone (``python tests/latency_proxy.py HOST:PORT --latency 0.05``), for measurements that must not share a
process with it: then it prints its port, and on each line that it reads the account since the last one, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from urllib.parse import parse_qs, urlsplit

import pyarrow.fs as pafs

LONGEST_HEAD = 1 << 20


@dataclass(frozen=True)
class SeenRequest:
    """One request.

    Args:
        kind: HEAD, GET, LIST, PUT, COPY, DELETE, BULK DELETE; for uploads in parts CREATE, PART, COMPLETE, ABORT and
            LIST UPLOADS.
        key: bucket and key; of a listing its prefix.
        range: of bytes, as it was asked for.
        status: that the server answered.
        sent, received: bytes of the bodies, seen from the client.
        began, ended: seconds of a clock that never goes back.
    """

    kind: str
    key: str
    range: str
    status: int
    sent: int
    received: int
    began: float
    ended: float


@dataclass
class LatencyProxy:
    """A context manager; inside of it, the proxy answers at ``endpoint``.

    Args:
        upstream: ``host:port`` of the server.
        latency: seconds.
        together: so many requests are answered once they are all there: a client that sends them one after the other
            never gets its first answer.
        requests: what was asked for, in the order of the answers.
    """

    upstream: str
    latency: float = 0.0
    together: int = 0
    requests: list[SeenRequest] = field(default_factory=list)

    def __enter__(self) -> LatencyProxy:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def filesystem(self) -> pafs.S3FileSystem:
        """The server behind it, for a test that counts requests."""
        return pafs.S3FileSystem(
            access_key="test",
            secret_key="test",
            endpoint_override=self.endpoint,
            region="us-east-1",
            allow_delayed_open=True,
            request_timeout=60,  # what is asked for again would be counted again
        )

    def counts(self) -> Counter[str]:
        """How many requests there were of each kind."""
        return Counter(request.kind for request in self.requests)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._arrived, self._all_there = 0, asyncio.Event()
        self._writers: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=LONGEST_HEAD, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        # Connections that are just being accepted have no writer yet, and a server that is closed leaves them open: it
        # accepts no further ones, `_accept` ends these, and only then it is closed.
        self._loop.remove_reader(server.sockets[0].fileno())
        connections = set(self._writers.values())
        if accepting := asyncio.all_tasks() - connections - {asyncio.current_task()}:
            await asyncio.wait(accepting)
        server.close()
        for writer, connection in self._writers.items():
            writer.transport.abort()  # its client may have stopped reading
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # a transport closes its socket in the loop's next round

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._stop.is_set():  # it came while the others were ended
            writer.transport.abort()
            return
        self._writers[writer] = asyncio.create_task(self._connection(reader, writer))

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client is gone, or this proxy ends
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        began = time.monotonic()
        method, target, headers = _parsed(head)
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await _body(reader, headers)
        self._arrived += 1
        if self._arrived >= self.together:
            self._all_there.set()
        await self._all_there.wait()
        await asyncio.sleep(self.latency)
        host, _, port = self.upstream.rpartition(":")
        server, to_server = await asyncio.open_connection(host, int(port), limit=LONGEST_HEAD)
        try:
            to_server.write(_for_one_exchange(head) + body)
            answer_head = await server.readuntil(b"\r\n\r\n")
            _, _, answer_headers = _parsed(answer_head)
            status = int(answer_head.split(b" ", 2)[1])
            has_body = method != "HEAD" and status not in (204, 304)
            answer = await _body(server, answer_headers, until_closed=True) if has_body else b""
        finally:
            to_server.transport.abort()
        if has_body:
            answer_head = _with_length(answer_head, len(answer))
        kind, key = _kind(method, target, headers)
        range_, ended = headers.get("range", ""), time.monotonic()
        self.requests.append(SeenRequest(kind, key, range_, status, len(body), len(answer), began, ended))
        writer.write(answer_head + answer)
        await writer.drain()
        return headers.get("connection", "").lower() != "close"


def _parsed(head: bytes) -> tuple[str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, *_ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return method, target, headers


def _for_one_exchange(head: bytes) -> bytes:
    """The same head, without what only matters between this proxy and its client; the server is to close."""
    first, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].lower() not in (b"connection", b"expect")]
    return b"\r\n".join([first, *kept, b"Connection: close", b"", b""])


def _with_length(head: bytes, length: int) -> bytes:
    first, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    first = first.replace(b"HTTP/1.0", b"HTTP/1.1")
    dropped = (b"connection", b"content-length", b"transfer-encoding")
    kept = [line for line in lines if line.partition(b":")[0].lower() not in dropped]
    return b"\r\n".join([first, *kept, b"Content-Length: %d" % length, b"", b""])


async def _body(reader: asyncio.StreamReader, headers: dict[str, str], *, until_closed: bool = False) -> bytes:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        raw = b""
        while True:
            size = await reader.readuntil(b"\r\n")
            chunk = await reader.readexactly(int(size, 16) + 2)
            raw += chunk[:-2] if until_closed else size + chunk
            if len(chunk) == 2:
                return raw
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read() if until_closed else b""


def _kind(method: str, target: str, headers: dict[str, str]) -> tuple[str, str]:
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    key = parts.path.lstrip("/")
    bucket, _, name = key.partition("/")
    if method == "GET" and "uploads" in query:
        return "LIST UPLOADS", "/".join([bucket, *query.get("prefix", [])])
    if method == "GET" and not name:
        return "LIST", "/".join([bucket, *query.get("prefix", [])])
    if method == "POST":
        kind = "BULK DELETE" if "delete" in query else "CREATE" if "uploads" in query else "COMPLETE"
        return kind, key
    if "uploadId" in query:
        return {"PUT": "PART", "DELETE": "ABORT"}.get(method, method), key
    if method == "PUT" and "x-amz-copy-source" in headers:
        return "COPY", key
    return method, key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("upstream")
    parser.add_argument("--latency", type=float, default=0.05)
    arguments = parser.parse_args()
    with LatencyProxy(arguments.upstream, arguments.latency) as proxy:
        sys.stdout.write(f"{proxy.port}\n")
        sys.stdout.flush()
        for _ in sys.stdin:
            seen, proxy.requests = proxy.requests, []
            sys.stdout.write(json.dumps([asdict(request) for request in seen]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
