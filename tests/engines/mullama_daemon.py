"""The mullama daemon, for tests: found where somebody put it, started on loopback with a home of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

VARIABLE = "MULLAMA_DAEMON"
# Beside the checkout, where whoever provides the binary may put it; it is no part of the project.
BESIDE = Path(__file__).parents[3] / "shared" / "mullama" / "mullama"
API_KEY = "daemon-test-key"
START_SECONDS = 60.0


def daemon_binary() -> str | None:
    """``$MULLAMA_DAEMON``, else ``mullama`` on the path, else the file beside the checkout."""
    if named := os.environ.get(VARIABLE):
        return named
    return shutil.which("mullama") or (str(BESIDE) if BESIDE.is_file() else None)


@cache
def why_no_daemon() -> str | None:
    """Why the daemon cannot run here; ``None`` if it can."""
    binary = daemon_binary()
    if binary is None:
        return f"there is no mullama daemon: set {VARIABLE} to its path"
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False, timeout=30)
    except OSError as error:
        return f"the mullama daemon {binary} does not start: {error}"
    if done.returncode != 0:
        return f"the mullama daemon {binary} does not start: {done.stderr.strip()}"
    return None


class Daemon:
    """A running daemon, started again when it ends, as a service manager would.

    Attributes:
        url: of its OpenAI endpoints.
        model: the name it gives its model.
        process: its process.
        starts: how often it was started.
    """

    def __init__(self, model: Path, home: Path, *, n_ctx: int, port: int | None = None) -> None:
        binary = daemon_binary()
        assert binary is not None
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.model = model.stem
        self.starts = 0
        home.mkdir(parents=True, exist_ok=True)
        self._home = home
        self._sockets = tempfile.mkdtemp(prefix="mullama-")  # a socket's path has to be short
        self._command = [binary, "serve", "-m", str(model), "-s", f"ipc://{self._sockets}/s", "-p", str(self.port)]
        self._command += ["--http-addr", "127.0.0.1", "-c", str(n_ctx), "-t", "1", "--api-key", API_KEY]
        self._command += ["--max-requests-per-second", "100000"]
        self._closing = False
        self._start()
        self._wait_for_model()
        self._supervisor = threading.Thread(target=self._restart_forever)
        self._supervisor.start()

    def _start(self) -> None:
        self.starts += 1
        with (self._home / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env={**os.environ, "HOME": str(self._home)}, stdout=log, stderr=log
            )

    def _restart_forever(self) -> None:
        while True:
            self.process.wait()
            if self._closing:
                return
            self._start()

    def _wait_for_model(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {API_KEY}"})
                listed = json.loads(connection.getresponse().read())
                connection.close()
                if any(one["id"] == self.model for one in listed["data"]):
                    return
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(f"the daemon did not come up: {(self._home / 'daemon.log').read_text()[-2000:]}")

    def close(self) -> None:
        """End it for good."""
        self._closing = True
        self.process.kill()
        self._supervisor.join()
        self.process.kill()  # one that was started in between
        self.process.wait()
        shutil.rmtree(self._sockets, ignore_errors=True)


@contextlib.contextmanager
def running_daemon(model: Path, home: Path, *, n_ctx: int = 512) -> Iterator[Daemon]:
    """A daemon with one model, while this lasts."""
    daemon = Daemon(model, home, n_ctx=n_ctx)
    try:
        yield daemon
    finally:
        daemon.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
