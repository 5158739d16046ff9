"""The processes of a small fleet: PostgreSQL, Redis, Airflow's components, Celery workers, each in its own session."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from airflow_mullama.demo.airflow.server import airflow_command

DEBIAN_POSTGRESQL = "/usr/lib/postgresql"
PATIENCE_SECONDS = 240.0
GRACE_SECONDS = 5.0
TAIL_LINES = 25


def find_program(name: str) -> str | None:
    """Where a program lies; those of PostgreSQL are not on Debian's search path."""
    folders = sorted(Path(DEBIAN_POSTGRESQL).glob("*/bin"))
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))


class Service:
    """A process, with all that it starts; it can be killed and started again.

    Args:
        name: for people, and of its log.
        command: what is run.
        log: what it prints goes there, over all its lives.
        environment: the whole of it; by default this process's.
        options: of ``subprocess.Popen``.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = environment
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._options,
            )

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def members(self) -> list[psutil.Process]:
        """Every process of its session. Airflow puts tasks into new process groups, never into new sessions."""
        if self._process is None:
            return []
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(process.pid) == self._process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kill(self) -> int:
        """SIGKILL to all of it at once; how many processes that were."""
        killed: set[int] = set()
        while members := self.members():
            for process in members:  # stopped first, so that none sees another's end and does something about it
                _send(process, signal.SIGSTOP)
            for process in members:
                _send(process, signal.SIGKILL)
                killed.add(process.pid)
            time.sleep(0.02)
        if self._process is not None:
            self._process.wait()
        return len(killed)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to what is left."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_SECONDS)
        self.kill()

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.is_file() else ""


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


def broker(folder: Path, port: int) -> Service:
    """A broker that keeps nothing: what it held is lost when it ends."""
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    return Service("redis", [*command, "--dir", str(folder)], folder / "redis.log")


def postgresql(folder: Path, logs: Path, port: int) -> Service:
    """A database in ``folder``, which whoever it runs as must be able to reach: PostgreSQL does not run as root."""
    user: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
    data = folder / "data"
    data.mkdir()
    if user:
        shutil.chown(data, **user)
        shutil.chown(folder, **user)
    initdb, postgres = find_program("initdb"), find_program("postgres")
    assert initdb is not None
    assert postgres is not None
    subprocess.run(
        [initdb, "-D", str(data), "-U", "airflow", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C"],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
        **user,
    )
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "max_connections": "200",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    command = [postgres, "-D", str(data), "-p", str(port), *options]
    return Service("postgresql", command, logs / "postgresql.log", cwd="/", **user)


def airflow(name: str, *arguments: str, environment: Mapping[str, str], home: Path) -> Service:
    """A component of Airflow."""
    return Service(name, airflow_command(*arguments), home / f"{name}.log", environment, cwd=home)


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait until a condition holds; its value.

    Raises:
        TimeoutError: it does not within ``seconds``.
    """
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError):  # what is asked is not up, or has just been killed
            if value := condition():
                return value
        if time.monotonic() > end:
            raise TimeoutError(f"Waited {seconds:.0f} s for {what}, in vain.")
        time.sleep(0.5)  # looking is work too: listing a bucket most of all
