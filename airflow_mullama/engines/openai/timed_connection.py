"""A connection whose waits all end at one deadline, whatever bytes arrive meanwhile.

The time limits of :mod:`http.client`, as those of urllib3 and httpx, are for a single read: a server that sends a byte
now and then, of its status line, a header, ``100 Continue`` or a chunk's size, outlasts them all. Here each read and
each write gets what is left of the whole exchange.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

CONNECT_SECONDS = 10.0
SEND_BYTES = 1 << 20

Address = tuple[Any, ...]
"""What :func:`socket.getaddrinfo` gives."""


class TimedConnection(http.client.HTTPConnection):
    """A connection to a server.

    Args:
        host, port: of the server.
        tls: checks its certificate; ``None`` for plain HTTP.

    Attributes:
        deadline: of :func:`time.monotonic`, for whatever is done next; set it before each exchange.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(host, port)
        if tls is not None:
            self.default_port = http.client.HTTPS_PORT  # so that the header Host goes without it
        self._tls = tls
        self.deadline = 0.0

    def connect(self) -> None:
        """Find the server's address, connect and shake hands.

        Raises:
            OSError: TimeoutError where the deadline or :data:`CONNECT_SECONDS` passed.
        """
        until = min(self.deadline, time.monotonic() + CONNECT_SECONDS)
        connected = connect_to_any(find_addresses(self.host, self.port, until), until)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                allow_until(connected, until)
                connected = self._tls.wrap_socket(connected, server_hostname=self.host)
        except BaseException:
            connected.close()
            raise
        self.sock = _TimedSocket(connected, self)


class _TimedSocket:
    """The part of a socket that :mod:`http.client` uses."""

    def __init__(self, socket_: socket.socket, connection: TimedConnection) -> None:
        self._socket = socket_
        self._connection = connection

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            allow_until(self._socket, self._connection.deadline)
            rest = rest[self._socket.send(rest[:SEND_BYTES]) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReads(self._socket, self._connection), 1 << 16)

    def close(self) -> None:
        self._socket.close()  # at once, or when what reads the answer is closed


class _TimedReads(io.RawIOBase):
    def __init__(self, socket_: socket.socket, connection: TimedConnection) -> None:
        self._socket = socket_
        self._file = socket_.makefile("rb", buffering=0)
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        allow_until(self._socket, self._connection.deadline)
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def allow_until(socket_: socket.socket, deadline: float) -> None:
    """Give a socket's next operation what is left of the time.

    Raises:
        TimeoutError: nothing is.
    """
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("timed out")
    socket_.settimeout(remaining)


def find_addresses(host: str, port: int, until: float) -> list[Address]:
    """The addresses of a host.

    Raises:
        OSError: it has none; TimeoutError: the resolver does not answer in time.
    """
    with contextlib.suppress(OSError):
        return _look_up(host, port, socket.AI_NUMERICHOST)
    # The system's resolver takes no time limit, so a thread waits for it, and is left behind.
    found: queue.SimpleQueue[list[Address] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(_look_up(host, port, 0))
        except OSError as error:
            found.put(error)

    threading.Thread(target=look_up, daemon=True, name="mullama-resolver").start()
    try:
        result = found.get(timeout=max(0.0, until - time.monotonic()))
    except queue.Empty:
        raise TimeoutError(f"the address of {host} was not found in time") from None
    if isinstance(result, OSError):
        raise result
    return result


def _look_up(host: str, port: int, flags: int) -> list[Address]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError:
        raise OSError(f"{host!r} is not a valid host name") from None


def connect_to_any(
    addresses: list[Address], until: float, make: Callable[..., socket.socket] = socket.socket
) -> socket.socket:
    """Connect to the first address that answers, each with a fair share of the time that is left.

    Raises:
        OSError: of the last one.
    """
    failure: OSError = OSError("the host has no address")
    for place, (family, kind, protocol, _, address) in enumerate(addresses):
        now = time.monotonic()
        socket_ = make(family, kind, protocol)
        try:
            allow_until(socket_, now + (until - now) / (len(addresses) - place))
            socket_.connect(address)
        except OSError as error:
            socket_.close()
            failure = error
        else:
            return socket_
    raise failure
