"""A whole Airflow on this machine alone: API server with UI, scheduler and DAG processor, each started directly.

``airflow standalone`` leaves processes behind when it is stopped, and one of its listeners can be reached from other
machines. Here everything listens on the loopback interface, and a supervisor
(:mod:`airflow_mullama.demo.airflow.supervisor`) ends every process, also when this one is killed.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import os
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from airflow_mullama.child_process import module_command
from airflow_mullama.demo.airflow.client import AirflowClient
from airflow_mullama.demo.airflow.environment import HOST, airflow_environment
from airflow_mullama.demo.airflow.supervisor import STOP_SECONDS

DEFAULT_PORT: Final = 8080
COMPONENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "api-server": ("api-server", "--host", HOST, "--port", "{port}", "--workers", "1"),
    # Its server for task logs would listen on every interface; the API server reads the files itself.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
}
# In a home: the metadata database, and which version of Airflow made it.
DATABASE_NAME: Final = "airflow.db"
MIGRATED_NAME: Final = "migrated-to"
START_SECONDS: Final = 120.0
_POLL_SECONDS = 0.1
_LOCK_SECONDS = STOP_SECONDS + 5.0


class AirflowServerError(Exception):
    """Airflow cannot be started, or ended on its own; the message says why and where its log is."""


class AirflowServer:
    """Airflow's components over one home directory; a context manager that starts and stops them.

    Args:
        home: ``AIRFLOW_HOME``: metadata database, secrets and logs. Only its owner can read it.
        dags: the directory of the DAG files.
        environment: further variables for the components and the tasks.
        port: where the API server and the UI listen; a free one if ``None``.
        parallelism: tasks that run at the same time.
        announce: is told, in words, of steps that take seconds.
    """

    def __init__(
        self,
        home: Path,
        *,
        dags: Path,
        environment: Mapping[str, str] | None = None,
        port: int | None = None,
        parallelism: int = 2,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.home = home.absolute()
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.client = AirflowClient(self.url)
        self._dags = dags.absolute()
        self._environment = dict(environment or {})
        self._parallelism = parallelism
        self._announce = announce
        self._supervisor: subprocess.Popen[str] | None = None
        self._lock: int | None = None
        self._started_at = 0.0

    def __enter__(self) -> AirflowServer:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and wait until requests are answered.

        Raises:
            AirflowServerError: another process uses this home, or a component does not come up.
        """
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock_home(self.home)
        environment = airflow_environment(
            self.home, dags=self._dags, url=self.url, parallelism=self._parallelism, further=self._environment
        )
        migrate_database(self.home, environment, announce=self._announce)
        self._started_at = time.time()
        self._supervisor = subprocess.Popen(
            module_command("airflow_mullama.demo.airflow.supervisor"),
            env=environment,
            cwd=self.home,  # the components' too: some of what they start imports from the current directory
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            pass_fds=(self._lock,),  # the home stays locked until the last process is gone
            text=True,
        )
        self._start_component("api-server")
        if has_unfinished_runs(self.home):
            # The scheduler would go on with what an interrupted demo left, next to the new runs.
            self._wait(lambda: bool(self.client.health()), "the API server")
            self.client.fail_unfinished_runs()
        self._start_component("scheduler")
        self._start_component("dag-processor")
        self._wait(lambda: bool(self.client.health()), "the API server")
        threading.Thread(target=self._warm, daemon=True, name="warm-execution-api").start()

    def wait_for_dags(self, dag_ids: Collection[str]) -> None:
        """Wait until the scheduler runs and these DAGs were read from their files since the start.

        Raises:
            AirflowServerError: a DAG file cannot be imported, or nothing happens for minutes.
        """
        self._wait(lambda: all(self._is_fresh(dag_id) for dag_id in dag_ids), f"the DAGs {', '.join(sorted(dag_ids))}")
        self._wait(lambda: self.client.health()["scheduler"]["status"] == "healthy", "the scheduler")

    def check(self) -> None:
        """Make sure that every component still runs.

        Raises:
            AirflowServerError: one has ended.
        """
        supervisor = self._supervisor
        if supervisor is None or supervisor.poll() is None:
            return
        assert supervisor.stdout is not None
        report = supervisor.stdout.readline()
        if not report:
            raise AirflowServerError("Airflow was stopped from outside.")
        ended = json.loads(report)
        log = self.home / f"{ended['ended']}.log"
        raise AirflowServerError(
            f"Airflow's {ended['ended']} ended with status {ended['status']}; its log is {log} and ends with: "
            f"{_last_line(log)}"
        )

    def stop(self) -> None:
        """End all components, their tasks first; safe to call at any time and more than once."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            assert supervisor.stdin is not None
            assert supervisor.stdout is not None
            with contextlib.suppress(OSError):
                supervisor.stdin.close()
            try:
                supervisor.wait(STOP_SECONDS + 5.0)
            except subprocess.TimeoutExpired:
                supervisor.kill()
                supervisor.wait()
            supervisor.stdout.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _start_component(self, name: str) -> None:
        assert self._supervisor is not None
        assert self._supervisor.stdin is not None
        arguments = [argument.format(port=self.port) for argument in COMPONENTS[name]]
        order = {
            "name": name,
            "command": airflow_command(*arguments),
            "log": str(self.home / f"{name}.log"),
        }
        try:
            self._supervisor.stdin.write(json.dumps(order) + "\n")
            self._supervisor.stdin.flush()
        except BrokenPipeError:
            self.check()
            raise

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            self.check()
            # Until the server listens, requests are refused; while it starts, some fail.
            with contextlib.suppress(OSError, ValueError, KeyError):
                if condition():
                    return
            time.sleep(_POLL_SECONDS)
        raise AirflowServerError(
            f"Waited {START_SECONDS:.0f} s for {what}, in vain; the logs are in {self.home}, named after the component."
        )

    def _is_fresh(self, dag_id: str) -> bool:
        """Whether a DAG was read since the start; an error in its file is raised as soon as Airflow knows it."""
        dag = self.client.dag(dag_id)
        if dag is not None and dag["last_parsed_time"] and _timestamp(dag["last_parsed_time"]) > self._started_at:
            return True
        for error in self.client.import_errors():
            if f"{dag_id}.py" in error:
                raise AirflowServerError(f"The DAG file {error}")
        return False

    def _warm(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.client.warm()


def airflow_command(*arguments: str) -> list[str]:
    """The command that runs `airflow` with these arguments.

    Importing Airflow makes so many objects that Python looks for garbage among them all the time, and finds none. With
    a higher threshold the API server answers after 4.2 s of CPU instead of 5.6 (measured on Airflow 3.3, Python 3.11).
    """
    return module_command("airflow", *arguments, before="import gc; gc.set_threshold(50_000); ")


def migrate_database(
    home: Path, environment: Mapping[str, str], *, announce: Callable[[str], None] = lambda _: None
) -> None:
    """Make or upgrade the metadata database of a home, once per version of Airflow.

    Args:
        home: ``AIRFLOW_HOME``.
        environment: of Airflow's components.
        announce: is told, in words, when there is something to do.

    Raises:
        AirflowServerError: Airflow could not do it.
    """
    marker = home / MIGRATED_NAME
    version = importlib.metadata.version("apache-airflow-core")
    if marker.is_file() and marker.read_text() == version and (home / DATABASE_NAME).is_file():
        return
    announce("Airflow makes its metadata database")
    log = home / "migrate.log"
    with log.open("wb") as output:
        completed = subprocess.run(
            airflow_command("db", "migrate"),
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        )
    if completed.returncode:
        raise AirflowServerError(
            f"Airflow could not make its metadata database in {home}; the log is {log} and ends with: "
            f"{_last_line(log)} If another version of Airflow made it, remove that directory."
        )
    marker.write_text(version)


def has_unfinished_runs(home: Path) -> bool:
    """Whether an earlier demo was interrupted. Looked up in the database, since nothing may run yet."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{home / DATABASE_NAME}?mode=ro", uri=True)) as database:
            query = "SELECT 1 FROM dag_run WHERE state IN ('queued', 'running') LIMIT 1"
            return database.execute(query).fetchone() is not None
    except sqlite3.Error:
        return False


def free_port() -> int:
    """A port that nobody listens on, on the loopback interface."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of the loopback interface."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True


def _lock_home(home: Path) -> int:
    """Lock a home; the system unlocks it when the last process that holds the returned descriptor is gone."""
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            owner = os.pread(lock, 32, 0).decode() or "?"
            # A demo that was just killed needs a moment to end its processes.
            if time.monotonic() > end or _is_alive(owner):
                os.close(lock)
                raise AirflowServerError(
                    f"Another demo (process {owner}) is using {home}: stop it first, or choose another directory."
                ) from None
            time.sleep(_POLL_SECONDS)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _is_alive(owner: str) -> bool:
    try:
        os.kill(int(owner), 0)
    except (OSError, ValueError):
        return False
    return True


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "nothing."


def _timestamp(value: object) -> float:
    return datetime.datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp()
