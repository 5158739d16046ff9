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

from airflow_mullama.engines.openai_http import (
    Endpoint,
    HttpClient,
    OverdueError,
    TransportError,
    parse_retry_after,
)
from airflow_mullama.errors import ConfigurationError

KEY = "sk-very-secret"
Start = Callable[..., ScriptedServer]


@pytest.fixture
def connect() -> Iterator[Callable[..., HttpClient]]:
    clients: list[HttpClient] = []

    def make(url: str, *, max_wait: float = 5.0, request_timeout: float = 30.0, **options: Any) -> HttpClient:
        options = {"api_key": KEY, "ca_file": None, **options}
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
        answer = connect(server.url).get("models")
        assert (answer.status, answer.json()["error"]["message"]) == (401, "wrong key ***")

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

    @pytest.mark.parametrize("dripping", [False, True], ids=["silent", "dripping"])
    def test_an_answer_that_takes_too_long_is_overdue(self, connect: Any, dripping: bool) -> None:
        asked, done = threading.Event(), threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def stall() -> None:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    asked.set()
                    if dripping:
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                    while not done.wait(0.02):
                        if dripping:
                            connection.sendall(b" ")

            thread = threading.Thread(target=stall)
            thread.start()
            client = connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
            with pytest.raises(OverdueError):
                client.post("x", {}, deadline=time.monotonic() + 0.3)
            assert asked.is_set()
            done.set()
            thread.join()


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
        answer = connect(server.url).post("x", {}, deadline=time.monotonic() + 2)
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
