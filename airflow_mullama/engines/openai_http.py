"""HTTP for the engine ``openai``: one kept connection per thread, deadlines, and waiting where the server says so.

Connections are direct: proxies of the environment are not used. A closed connection is how a server learns that an
answer is no longer wanted; llama-server and vLLM then stop computing it.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from airflow_mullama import __version__
from airflow_mullama.errors import ConfigurationError

CONNECT_SECONDS = 10.0
MOST_ANSWER_BYTES = 256 << 20
# Pauses of a row whose server answers 429 or 503 and does not say for how long.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
TOO_MANY_REQUESTS, UNAVAILABLE = 429, 503


class TransportError(Exception):
    """No whole answer came: refused, reset, cut off, or not HTTP."""


class OverdueError(TransportError):
    """The answer did not come in time."""


@dataclass(frozen=True)
class Endpoint:
    """Where a server is.

    Args:
        secure: https.
        host, port: of the server.
        path: what stands before ``/chat/completions``, usually ``/v1``.
    """

    secure: bool
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, value: object) -> Endpoint:
        """Read ``http://host:port``, with ``/v1`` or another path behind it (``/v1`` if there is none).

        Raises:
            ConfigurationError: it is no such URL; what might be a password is not quoted.
        """
        form = "http://host:port or https://host/v1"
        if not isinstance(value, str):
            raise ConfigurationError(f"engine_options['endpoint'] must be a text such as {form}.")
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            raise ConfigurationError(f"engine_options['endpoint'] is no URL; it must be like {form}.") from None
        if "@" in parts.netloc:
            raise ConfigurationError(
                "engine_options['endpoint'] holds a user name or password; leave it out, and give the key as api_key, "
                "or in the environment variable that api_key_env names."
            )
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigurationError(f"engine_options['endpoint'] is {value!r}; it must be like {form}.")
        if any(character.isspace() or not character.isprintable() for character in value) or not value.isascii():
            raise ConfigurationError(f"engine_options['endpoint'] is {value!r}; it must be plain ASCII, like {form}.")
        secure = parts.scheme == "https"
        return cls(secure, parts.hostname, port or (443 if secure else 80), parts.path.rstrip("/") or "/v1")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = self.port == (443 if self.secure else 80)
        return f"http{'s' * self.secure}://{host}{'' if default else f':{self.port}'}{self.path}"


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer.

    Args:
        status: of HTTP.
        body: as it came; in an answer that is an error, the API key is blotted out.
        retry_after: seconds that the server asks to wait.
        waited: seconds that were waited because of earlier answers 429 and 503.
    """

    status: int
    body: bytes
    retry_after: float | None = None
    waited: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it is what was asked for."""
        return self.status == http.HTTPStatus.OK

    def json(self) -> Any:
        """The body read as JSON; ``None`` if it is something else."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


class HttpClient:
    """Asks one server, from any number of threads.

    Args:
        endpoint: of the server.
        api_key: sent as a bearer token, if there is one.
        request_timeout: seconds one request may take.
        max_wait: seconds one row waits, all pauses together, while the server answers 429 or 503.
        ca_file: of certificates to trust, instead of the system's.

    Raises:
        ConfigurationError: ``ca_file`` is no file of certificates.
    """

    def __init__(
        self, endpoint: Endpoint, api_key: str | None, request_timeout: float, max_wait: float, ca_file: str | None
    ) -> None:
        self._endpoint = endpoint
        self._api_key = api_key
        self._request_timeout = request_timeout
        self._max_wait = max_wait
        self._tls = tls_context(ca_file) if endpoint.secure else None
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"airflow-mullama/{__version__}",
            **({"Authorization": f"Bearer {api_key}"} if api_key else {}),
        }
        self._of_thread = threading.local()
        self._random = random.Random()

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._of_thread, "connection", None)
        if connection is not None:
            connection.close()

    def get(self, path: str) -> Answer:
        """Ask for ``path`` below the endpoint's (above it with a leading ``/``).

        Raises:
            TransportError: no whole answer came.
        """
        return self._ask("GET", path, None, None)

    def post(self, path: str, body: Mapping[str, Any], deadline: float | None = None) -> Answer:
        """Send JSON, and again while the server answers 429 or 503, after the pauses that it asks for.

        Args:
            path: below the endpoint's.
            body: as JSON.
            deadline: of :func:`time.monotonic`, for everything together.

        Raises:
            TransportError: no whole answer came; OverdueError: not in time.
        """
        return self._ask("POST", path, json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"), deadline)

    def _ask(self, method: str, path: str, content: bytes | None, deadline: float | None) -> Answer:
        path = path if path.startswith("/") else f"{self._endpoint.path}/{path}"
        pause, waited = FIRST_PAUSE_SECONDS, 0.0
        while True:
            until = time.monotonic() + self._request_timeout
            answer = self._exchange(method, path, content, until if deadline is None else min(until, deadline))
            if answer.status not in (TOO_MANY_REQUESTS, UNAVAILABLE):
                return answer
            # Never less than was asked for; beyond that spread, so that not all calls come back at once.
            wait = max(answer.retry_after or 0.0, pause) * self._random.uniform(1.0, 1.25)
            too_late = deadline is not None and time.monotonic() + wait >= deadline
            if too_late or waited + wait > self._max_wait:
                return Answer(answer.status, answer.body, answer.retry_after, waited)
            time.sleep(wait)
            waited += wait
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _exchange(self, method: str, path: str, content: bytes | None, deadline: float) -> Answer:
        connection: http.client.HTTPConnection | None = getattr(self._of_thread, "connection", None)
        if connection is not None and connection.sock is not None:
            kept = connection.sock
            try:
                response = self._send(connection, method, path, content, deadline)
            except (OSError, http.client.HTTPException):
                connection.close()  # most often the server ended an idle connection: once more on a new one
            else:
                return self._received(connection, kept, response, deadline)
        connection = self._of_thread.connection = self._new_connection(deadline)
        try:
            connection.connect()
            # A connection that the server does not keep leaves its socket to the answer, whose reading is timed too.
            socket_: socket.socket = connection.sock
            response = self._send(connection, method, path, content, deadline)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._failure(error, deadline) from None
        return self._received(connection, socket_, response, deadline)

    def _new_connection(self, deadline: float) -> http.client.HTTPConnection:
        seconds = max(0.001, min(CONNECT_SECONDS, deadline - time.monotonic()))
        host, port = self._endpoint.host, self._endpoint.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=seconds)
        return http.client.HTTPSConnection(host, port, timeout=seconds, context=self._tls)

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, content: bytes | None, deadline: float
    ) -> http.client.HTTPResponse:
        try:
            _allow_until(connection.sock, deadline)
            connection.request(method, path, content, self._headers)
            _allow_until(connection.sock, deadline)
            return connection.getresponse()
        except TimeoutError as error:
            connection.close()
            raise self._failure(error, deadline) from None

    def _received(
        self,
        connection: http.client.HTTPConnection,
        socket_: socket.socket,
        response: http.client.HTTPResponse,
        deadline: float,
    ) -> Answer:
        parts: list[bytes] = []
        size = 0
        try:
            while part := response.read1(1 << 16):
                parts.append(part)
                size += len(part)
                if size > MOST_ANSWER_BYTES:
                    raise TransportError(f"the answer is longer than {MOST_ANSWER_BYTES >> 20} MB")
                _allow_until(socket_, deadline)
            if response.length:  # read1 does not say that the rest is missing
                raise TransportError("the connection ended in the middle of the answer")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._failure(error, deadline) from None
        except TransportError:
            connection.close()
            raise
        finally:
            response.close()
        body = b"".join(parts)
        if response.status >= http.HTTPStatus.BAD_REQUEST and self._api_key:
            body = body.replace(self._api_key.encode(), b"***")
        return Answer(response.status, body, parse_retry_after(response.headers.get("Retry-After")))

    def _failure(self, error: Exception, deadline: float) -> TransportError:
        if isinstance(error, TimeoutError) and time.monotonic() >= deadline:
            return OverdueError("the server did not answer in time")
        if isinstance(error, ssl.SSLCertVerificationError):
            return TransportError(
                f"its certificate is not trusted: {error.verify_message}; engine_options['ca_file'] may name the "
                "certificate to trust"
            )
        words = str(error) or type(error).__name__
        if isinstance(error, http.client.HTTPException):
            words = f"{type(error).__name__}: {words}"
        return TransportError(words.replace(self._api_key, "***") if self._api_key else words)


def _allow_until(socket_: socket.socket, deadline: float) -> None:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    socket_.settimeout(remaining)


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """What checks a server's certificate.

    Raises:
        ConfigurationError: ``ca_file`` is no file of certificates.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"engine_options['ca_file'] is {ca_file!r}, which cannot be read as certificates ({error}); it must be a "
            "PEM file."
        ) from None


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header, which may be a number or a date; ``None`` without a sound one."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return seconds if 0.0 <= seconds < float("inf") else None
