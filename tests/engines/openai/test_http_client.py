"""The HTTP of the engine ``openai``, over real sockets."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_server import Asked, Reply, ScriptedServer, error

from airflow_mullama.engines.openai.answers import server_words
from airflow_mullama.engines.openai.http_client import (
    Endpoint,
    HttpClient,
    OverdueError,
    TransportError,
    parse_retry_after,
)
from airflow_mullama.engines.openai.timed_connection import connect_to_any
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.redaction.credentials import Secret

KEY = "sk-very-secret"
Start = Callable[..., ScriptedServer]


@contextlib.contextmanager
def answering(serve: Callable[[socket.socket], None], *, reads: bool = True) -> Iterator[str]:
    """A server for one connection. ``serve`` is given that when the request has come, and is over when it is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                if reads:
                    connection.recv(65536)
                serve(connection)
                ended.wait()

        ended = threading.Event()
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            with contextlib.suppress(OSError):  # where nobody came, or it would be waited for
                socket.create_connection(listener.getsockname(), timeout=1.0).close()
            thread.join()


def dripping(start: bytes, piece: bytes, pause: float = 0.02) -> Callable[[socket.socket], None]:
    """Send ``start``, and then a piece now and then for as long as somebody listens."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(start)
        closed = threading.Event()
        connection.settimeout(10.0)
        while not closed.wait(pause):
            if piece:
                connection.sendall(piece)
            elif connection.recv(1) == b"":
                return

    return serve


@pytest.fixture
def connect() -> Iterator[Callable[..., HttpClient]]:
    clients: list[HttpClient] = []

    def make(url: str, *, max_wait: float = 5.0, request_timeout: float = 30.0, **options: Any) -> HttpClient:
        options = {"api_key": Secret(KEY), "ca_file": None, **options}
        clients.append(HttpClient(Endpoint.parse(url), request_timeout=request_timeout, max_wait=max_wait, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


class TestEndpoint:
    @pytest.mark.parametrize(
        ("given", "shown", "port"),
        [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1", 8080),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1", 8080),
            ("http://gpu-box:8000/v1/", "http://gpu-box:8000/v1", 8000),
            ("https://api.example.com/openai/v1", "https://api.example.com/openai/v1", 443),
            ("HTTP://host:80", "http://host/v1", 80),
            ("http://[::1]:8080/v1", "http://[::1]:8080/v1", 8080),
        ],
    )
    def test_it_is_a_host_with_a_port_and_a_path(self, given: str, shown: str, port: int) -> None:
        endpoint = Endpoint.parse(given)
        assert (str(endpoint), endpoint.port) == (shown, port)

    @pytest.mark.parametrize(
        "given",
        [
            "127.0.0.1:8080", "ftp://host/v1", "http://", "http://host:99999", "http://host:port", "http://[::1",
            "http://host/v1?key=x", "http://host/v1#x", "http://host/v1\r\nX: y", "http://hôst/v1", "http://ho st",
            "", None, 8080,
        ],
    )  # fmt: skip
    def test_anything_else_is_refused(self, given: object) -> None:
        with pytest.raises(ConfigurationError, match=r"engine_options\['endpoint'\]"):
            Endpoint.parse(given)

    def test_a_password_in_it_is_refused_and_not_quoted(self) -> None:
        with pytest.raises(ConfigurationError, match="user name or password") as caught:
            Endpoint.parse("https://me:hunter2@host/v1")
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("0", 0.0), (None, None), ("soon", None), ("-1", None), ("inf", None), ("nan", None)],
)
def test_retry_after_is_a_number_of_seconds(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


def test_retry_after_may_be_a_date() -> None:
    in_a_minute = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=60)
    seconds = parse_retry_after(email.utils.format_datetime(in_a_minute, usegmt=True))
    assert seconds is not None
    assert 0 < seconds <= 60
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") is None  # long over


@pytest.mark.integration
class TestConnections:
    def test_a_thread_keeps_its_connection(self, scripted_server: Start, connect: Any) -> None:
        server = scripted_server()
        client = connect(server.url)
        assert all(client.get("models").ok for _ in range(5))
        assert server.connections == 1

    def test_each_thread_has_one_of_its_own(self, scripted_server: Start, connect: Any) -> None:
        server = scripted_server()
        client = connect(server.url)
        barrier = threading.Barrier(3)

        def ask() -> None:
            barrier.wait()
            client.get("models")
            client.get("models")
            client.close()

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (server.connections, len(server.asked)) == (3, 6)

    def test_a_connection_that_the_server_ended_is_replaced(self, scripted_server: Start, connect: Any) -> None:
        server = scripted_server(lambda asked: Reply(body={}, close=True))
        client = connect(server.url)
        assert [client.get("models").status for _ in range(3)] == [200, 200, 200]
        assert server.connections == 3

    def test_the_key_goes_as_a_bearer_token(self, scripted_server: Start, connect: Any) -> None:
        server = scripted_server()
        connect(server.url).get("models")
        connect(server.url, api_key=None).get("models")
        assert [asked.headers.get("Authorization") for asked in server.asked] == [f"Bearer {KEY}", None]

    def test_a_server_that_echoes_the_key_does_not_make_us_show_it(self, scripted_server: Start, connect: Any) -> None:
        server = scripted_server(lambda asked: error(401, f"wrong key {KEY}"))
        assert server_words(connect(server.url, api_key=Secret(KEY)).get("models")) == "401: wrong key ***"

    def test_nor_one_that_answers_with_it_instead_of_http(self, connect: Any) -> None:
        shown = r"BadStatusLine: \*\*\* \\x1b\[2J"
        with (
            answering(lambda connection: connection.sendall(f"{KEY} \x1b[2J\r\n".encode())) as url,
            pytest.raises(TransportError, match=shown),
        ):
            connect(url, api_key=Secret(KEY)).get("models")

    @pytest.mark.parametrize(
        ("reply", "words"),
        [
            (Reply(reset=True), "reset"),
            (Reply(body={"data": []}, cut=3), "in the middle"),
            (Reply(body=b"", headers={"Content-Length": "70", "X": "y"}, close=True), "in the middle"),
        ],
    )
    def test_an_answer_that_is_not_whole_is_none(
        self, scripted_server: Start, connect: Any, reply: Reply, words: str
    ) -> None:
        server = scripted_server(lambda asked: reply)
        with pytest.raises(TransportError, match=words):
            connect(server.url).get("models")

    def test_what_is_not_http_is_no_answer(self, connect: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def greet() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"220 mail.example.com ESMTP\r\n")

            thread = threading.Thread(target=greet)
            thread.start()
            with pytest.raises(TransportError, match="BadStatusLine"):
                connect(f"http://127.0.0.1:{listener.getsockname()[1]}").get("models")
            thread.join()

    def test_nobody_listening_is_no_answer(self, connect: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(TransportError, match="refused"):
            connect(f"http://127.0.0.1:{port}").get("models")


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "nothing at all": (b"", b""),
    "a body of a given length": (OK + b"Content-Length: 100000\r\n\r\n", b" "),
    "a body until the end": (OK + b"\r\n", b" "),
    "a chunk": (CHUNKED + b"ffff\r\n", b" "),
    "whole chunks": (CHUNKED, b"1\r\n \r\n"),
    "the status line": (b"HTTP/1.1 200 ", b"O"),
    "a header": (OK + b"X-A: ", b"a"),
    "headers": (OK, b"X-A: b\r\n"),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the size of a chunk": (CHUNKED, b"0"),
    "the extension of a chunk": (CHUNKED + b"1;", b"x"),
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\n", b"X-T: y\r\n"),
}


@pytest.mark.integration
class TestDeadlines:
    """A server that goes on sending outlasts no deadline: otherwise these tests would not end."""

    @pytest.mark.parametrize(("start", "piece"), DRIPS.values(), ids=DRIPS)
    def test_an_answer_that_drips_is_overdue(self, connect: Any, start: bytes, piece: bytes) -> None:
        with answering(dripping(start, piece)) as url, pytest.raises(OverdueError):
            connect(url).post("x", {}, 1 << 20, deadline=time.monotonic() + 0.3)

    def test_a_kept_connection_has_the_next_exchanges_deadline(self, connect: Any) -> None:
        first = OK + b"Content-Length: 2\r\n\r\n{}"

        def serve(connection: socket.socket) -> None:
            connection.sendall(first)
            connection.recv(65536)
            dripping(OK, b"X-A: b\r\n")(connection)

        with answering(serve) as url:
            client = connect(url)
            assert client.get("models").json() == {}
            with pytest.raises(OverdueError):
                client.post("x", {}, 1 << 20, deadline=time.monotonic() + 0.3)

    def test_a_request_that_the_server_does_not_read_is_overdue(self, connect: Any) -> None:
        with answering(lambda connection: None, reads=False) as url, pytest.raises(OverdueError):
            connect(url).post("x", {"text": "x" * (32 << 20)}, 1 << 20, deadline=time.monotonic() + 0.3)

    def test_a_list_has_a_limit_of_its_own_below_a_requests(
        self, connect: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airflow_mullama.engines.openai.http_client.LIST_SECONDS", 0.3)
        with answering(dripping(OK + b"X-A: ", b"a")) as url, pytest.raises(OverdueError):
            connect(url, request_timeout=86_400.0).get("models")

    def test_a_resolver_that_does_not_answer_is_overdue(self, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        answered = threading.Event()
        look_up = socket.getaddrinfo

        def silent(host: str, *arguments: Any, flags: int = 0, **keywords: Any) -> Any:
            if not flags & socket.AI_NUMERICHOST:
                answered.wait()
            return look_up(host, *arguments, flags=flags, **keywords)

        monkeypatch.setattr(socket, "getaddrinfo", silent)
        with pytest.raises(OverdueError):
            connect("http://a-host-somewhere").post("x", {}, 1000, deadline=time.monotonic() + 0.3)
        answered.set()

    def test_a_host_that_does_not_take_connections_leaves_time_for_its_other_address(self) -> None:
        with socket.socket() as full, socket.create_server(("127.0.0.1", 0)) as listener:
            full.bind(("127.0.0.1", 0))  # bound, not listening: refuses at once
            addresses = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", one.getsockname()) for one in (full, listener)]
            shares: list[float | None] = []

            class Recorded(socket.socket):
                def connect(self, address: Any) -> None:
                    shares.append(self.gettimeout())
                    super().connect(address)

            with connect_to_any(addresses, time.monotonic() + 10.0, Recorded) as connected:
                assert connected.getpeername() == listener.getsockname()
        assert shares[0] is not None
        assert shares[1] is not None
        assert shares[0] <= 5.0 < shares[1]

    def test_a_name_that_no_host_can_have_is_no_answer(self, connect: Any) -> None:
        with pytest.raises(TransportError, match="is not a valid host name"):
            connect("http://a..b").get("models")


@pytest.mark.integration
class TestSizes:
    def test_an_answer_beyond_what_was_asked_for_is_none(self, scripted_server: Start, connect: Any) -> None:
        server = scripted_server(lambda asked: Reply(body=b" " * 5000 + b"{}"))
        client = connect(server.url)
        assert client.post("x", {}, 6000).ok
        with pytest.raises(TransportError, match=r"longer than anything that was asked for can be \(4,000 bytes\)"):
            client.post("x", {}, 4000)
        assert client.post("x", {}, 6000).ok  # on a new connection: the rest was not read

    def test_an_endless_one_ends_with_the_bound_and_not_with_the_time(self, connect: Any) -> None:
        endless = dripping(OK + b"\r\n", b" " * 65_536, pause=0.0)
        with answering(endless) as url, pytest.raises(TransportError, match="longer than"):
            connect(url, request_timeout=86_400.0).post("x", {}, 1 << 20)

    def test_of_an_endless_error_the_beginning_is_enough(self, connect: Any) -> None:
        start = b"HTTP/1.1 404 Not Found\r\n\r\nnothing here"
        with answering(dripping(start, b" " * 65_536, pause=0.0)) as url:
            answer = connect(url, request_timeout=86_400.0).get("models")
        assert (answer.status, answer.body[:12]) == (404, b"nothing here")

    def test_an_answer_that_is_nested_without_end_is_no_json(self, scripted_server: Start, connect: Any) -> None:
        server = scripted_server(lambda asked: Reply(body=b"[" * 1_000_000))
        assert connect(server.url).get("models").json() is None


@pytest.mark.integration
class TestWaiting:
    @pytest.mark.parametrize("status", [429, 503])
    def test_it_waits_as_long_as_the_server_asks(self, scripted_server: Start, connect: Any, status: int) -> None:
        times: list[float] = []

        def answer(asked: Asked) -> Reply | None:
            times.append(time.monotonic())
            return error(status, "slow down", Retry_After="1") if len(times) == 1 else None

        assert connect(scripted_server(answer).url).get("models").ok
        assert times[1] - times[0] >= 1.0

    def test_without_a_word_it_waits_longer_each_time(self, scripted_server: Start, connect: Any) -> None:
        times: list[float] = []

        def answer(asked: Asked) -> Reply | None:
            times.append(time.monotonic())
            return error(429, "slow down") if len(times) < 3 else None

        connect(scripted_server(answer).url).get("models")
        assert times[1] - times[0] >= 0.5
        assert times[2] - times[1] >= 1.0

    def test_it_does_not_wait_beyond_its_limit(self, scripted_server: Start, connect: Any) -> None:
        server = scripted_server(lambda asked: error(429, "come back tomorrow", Retry_After="86400"))
        answer = connect(server.url).get("models")
        assert (answer.status, answer.retry_after, answer.waited) == (429, 86400.0, 0.0)
        assert len(server.asked) == 1

    def test_it_does_not_wait_beyond_the_rows_time(self, scripted_server: Start, connect: Any) -> None:
        server = scripted_server(lambda asked: error(429, "later", Retry_After="3"))
        answer = connect(server.url).post("x", {}, 1000, deadline=time.monotonic() + 2)
        assert (answer.status, len(server.asked)) == (429, 1)


@pytest.mark.integration
class TestHttps:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        """Of 127.0.0.1, signed by itself, with its key in the same file."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "test")])
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(key, hashes.SHA256())
        )
        path = tmp_path / "certificate.pem"
        private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(serialization.Encoding.PEM, *private)
        )
        return path

    @pytest.fixture
    def https_url(self, scripted_server: Start, certificate: Path) -> str:
        server = scripted_server()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
        server._server.handle_error = lambda request, address: None  # type: ignore[method-assign]
        return server.url.replace("http://", "https://")

    def test_a_certificate_that_is_named_is_trusted(self, https_url: str, connect: Any, certificate: Path) -> None:
        client = connect(https_url, ca_file=str(certificate))
        assert [client.get("models").status for _ in range(2)] == [200, 200]

    def test_another_is_not(self, https_url: str, connect: Any) -> None:
        with pytest.raises(TransportError, match=r"not trusted: self.signed certificate.*ca_file"):
            connect(https_url).get("models")

    def test_a_file_without_certificates_is_refused(self, tmp_path: Path, connect: Any) -> None:
        (tmp_path / "empty.pem").write_text("nothing")
        with pytest.raises(ConfigurationError, match=r"ca_file.*must be a PEM file"):
            connect("https://127.0.0.1:1", ca_file=str(tmp_path / "empty.pem"))
