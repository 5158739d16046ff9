"""HTTP for the engine ``openai``: one kept connection per thread, one deadline for each exchange, bounds on what an
answer may have, and waiting where the server says so.

Connections are direct: proxies of the environment are not used. A closed connection is how a server learns that an
answer is no longer wanted; llama-server and vLLM then stop computing it.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import random
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode, urlsplit

from airflow_mullama.engines.openai.error_bodies import status_in_body
from airflow_mullama.engines.openai.timed_connection import CONNECT_SECONDS, TimedConnection
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.redaction.credentials import Secret
from airflow_mullama.redaction.foreign_text import printable
from airflow_mullama.version import __version__

# Of an answer that is not a success, of which only the words are wanted.
MOST_ERROR_BYTES = 1 << 20
# Of a list of models; the longest known ones have one megabyte.
MOST_LIST_BYTES = 8 << 20
# Seconds for what is asked before the first row and computes nothing.
LIST_SECONDS = 30.0
MOST_WORDS = 500
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
    def parse(cls, value: object, name: str = "engine_options['endpoint']") -> Endpoint:
        """Read ``http://host:port``, with ``/v1`` or another path behind it (``/v1`` if there is none).

        Args:
            value: what was given.
            name: of where it was given, for people.

        Raises:
            ConfigurationError: it is not such a URL; what might be a password is not quoted.
        """
        form = "http://host:port or https://host/v1"
        if not isinstance(value, str):
            raise ConfigurationError(f"{name} must be a text such as {form}.")
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            raise ConfigurationError(f"{name} is no URL; it must be like {form}.") from None
        if "@" in value:
            raise ConfigurationError(
                f"{name} holds a user name or password; leave it out, and give the key as api_key, "
                "or in the environment variable that api_key_env names."
            )
        if parts.query or parts.fragment:
            raise ConfigurationError(
                f"{name} has something behind '?' or '#' (not shown here: it may be a key); leave it out: parameters "
                "such as api-version go into engine_options['query'], a key into api_key."
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"{name} is {value!r}; it must be like {form}.")
        if any(character.isspace() or not character.isprintable() for character in value) or not value.isascii():
            raise ConfigurationError(f"{name} is {value!r}; it must be plain ASCII, like {form}.")
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
        status: of HTTP, or what a body with HTTP's 200 tells of an error.
        body: as it came, whole; of an answer that is not a success, its beginning.
        retry_after: seconds that the server asks to wait.
        waited: seconds that were waited because of earlier answers 429 and 503.
        told_in_body: whether the status is that of the body.
    """

    status: int
    body: bytes
    retry_after: float | None = None
    waited: float = 0.0
    told_in_body: bool = False

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
        query: parameters of each request, behind its path.
        headers: of each request, besides the usual ones; an ``Authorization`` goes before ``api_key``.
        extra_body: fields of each body.

    Raises:
        ConfigurationError: ``ca_file`` is not a file of certificates.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        api_key: Secret | None,
        request_timeout: float,
        max_wait: float,
        ca_file: str | None,
        *,
        query: Mapping[str, str] = MappingProxyType({}),
        headers: Mapping[str, str] = MappingProxyType({}),
        extra_body: Mapping[str, Any] = MappingProxyType({}),
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
        given = {name.lower() for name in headers}
        self._headers = {name: text for name, text in self._headers.items() if name.lower() not in given} | dict(
            headers
        )
        self._query = f"?{urlencode(query)}" if query else ""
        self._extra_body = dict(extra_body)
        self._of_thread = threading.local()
        self._random = random.Random()

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._of_thread, "connection", None)
        if connection is not None:
            connection.close()

    def get(self, path: str, deadline: float | None = None) -> Answer:
        """Ask for ``path`` below the endpoint's (above it with a leading ``/``): for what is there without computing.

        Args:
            path: of a list or a description.
            deadline: of :func:`time.monotonic`, for everything together.

        Raises:
            TransportError: no whole answer came; OverdueError: not in time.
        """
        return self._ask("GET", path, None, min(LIST_SECONDS, self._request_timeout), deadline, MOST_LIST_BYTES)

    def post(self, path: str, body: Mapping[str, Any], most_bytes: int, deadline: float | None = None) -> Answer:
        """Send JSON, and again while the server answers 429 or 503, after the pauses that it asks for.

        Args:
            path: below the endpoint's.
            body: as JSON.
            most_bytes: that an answer to this may have.
            deadline: of :func:`time.monotonic`, for everything together.

        Raises:
            TransportError: no whole answer came; OverdueError: not in time.
        """
        content = json.dumps({**body, **self._extra_body}, ensure_ascii=False).encode("utf-8", "replace")
        return self._ask("POST", path, content, self._request_timeout, deadline, most_bytes)

    def _ask(
        self, method: str, path: str, content: bytes | None, seconds: float, deadline: float | None, most_bytes: int
    ) -> Answer:
        path = (path if path.startswith("/") else f"{self._endpoint.path}/{path}") + self._query
        pause, waited = FIRST_PAUSE_SECONDS, 0.0
        while True:
            until = time.monotonic() + seconds
            until = until if deadline is None else min(until, deadline)
            answer = self._exchange(method, path, content, until, most_bytes)
            if answer.status not in (TOO_MANY_REQUESTS, UNAVAILABLE):
                return answer
            # Never less than was asked for; beyond that spread, so that not all calls come back at once.
            wait = max(answer.retry_after or 0.0, pause) * self._random.uniform(1.0, 1.25)
            too_late = deadline is not None and time.monotonic() + wait >= deadline
            if too_late or waited + wait > self._max_wait:
                return replace(answer, waited=waited)
            time.sleep(wait)
            waited += wait
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _exchange(self, method: str, path: str, content: bytes | None, until: float, most_bytes: int) -> Answer:
        """One request and its answer; everything that is waited for ends with ``until``."""
        kept: TimedConnection | None = getattr(self._of_thread, "connection", None)
        if kept is not None and kept.sock is not None:
            kept.deadline = until
            try:
                response = self._send(kept, method, path, content)
            except TimeoutError as error:
                kept.close()
                raise self._failure(error, until) from None
            except (OSError, http.client.HTTPException):
                kept.close()  # most often the server ended an idle connection: once more on a new one
            else:
                return self._received(kept, response, most_bytes)
        connection = self._of_thread.connection = TimedConnection(self._endpoint.host, self._endpoint.port, self._tls)
        connection.deadline = until
        try:
            connection.connect()
            response = self._send(connection, method, path, content)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._failure(error, until) from None
        return self._received(connection, response, most_bytes)

    def _send(
        self, connection: TimedConnection, method: str, path: str, content: bytes | None
    ) -> http.client.HTTPResponse:
        connection.request(method, path, content, self._headers)
        return connection.getresponse()

    def _received(self, connection: TimedConnection, response: http.client.HTTPResponse, most_bytes: int) -> Answer:
        good = response.status == http.HTTPStatus.OK
        most_bytes = most_bytes if good else MOST_ERROR_BYTES
        parts: list[bytes] = []
        size = 0
        try:
            while part := response.read1(1 << 16):
                parts.append(part)
                size += len(part)
                if size > most_bytes:
                    connection.close()  # what is still on its way is not wanted
                    if good:
                        raise TransportError(
                            f"its answer is longer than anything that was asked for can be ({most_bytes:,} bytes)"
                        )
                    break
            if response.length and size <= most_bytes:  # read1 does not say that the rest is missing
                raise TransportError("the connection ended in the middle of the answer")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._failure(error, connection.deadline) from None
        except TransportError:
            connection.close()
            raise
        finally:
            response.close()
        body = b"".join(parts)[:most_bytes]
        told = status_in_body(body) if good else None
        retry_after = parse_retry_after(response.headers.get("Retry-After"))
        return Answer(told or response.status, body, retry_after, told_in_body=told is not None)

    def _failure(self, error: Exception, until: float) -> TransportError:
        if isinstance(error, TimeoutError):
            if time.monotonic() >= until:
                return OverdueError("the server did not answer in time")
            return TransportError(f"no connection within {CONNECT_SECONDS:g} s ({error})")
        if isinstance(error, ssl.SSLCertVerificationError):
            return TransportError(
                f"its certificate is not trusted: {printable(error.verify_message)}; engine_options['ca_file'] may "
                "name the certificate to trust"
            )
        words = str(error) or type(error).__name__
        if isinstance(error, http.client.HTTPException):
            words = f"{type(error).__name__}: {words}"
        return TransportError(printable(words, MOST_WORDS))


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """What checks a server's certificate.

    Raises:
        ConfigurationError: ``ca_file`` is not a file of certificates.
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
