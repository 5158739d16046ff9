"""A task whose supervisor is gone: it is told, and ends, also where it hears nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.integration

# Stands in for Airflow's supervisor: forks the task's process, which has one end of a socket pair.
SUPERVISOR = """
import logging, os, socket, sys, threading, types
from airflow.sdk.execution_time import task_runner
from airflow_mullama.operators import supervisor_watch

logging.disable()  # Airflow's goes to standard output
ours, theirs = socket.socketpair()
if os.fork() == 0:
    ours.close()
    supervisor_watch.PATIENCE_SECONDS = 0.5
    task_runner.SUPERVISOR_COMMS = types.SimpleNamespace(socket=theirs)
    stop = threading.Event()
    with supervisor_watch.SupervisorWatch(stop):
        print(os.getpid(), flush=True)
        stop.wait()
        print("told", flush=True)
        if "deaf" in sys.argv:
            threading.Event().wait()
    print("ended by itself", flush=True)
    os._exit(0)
theirs.close()
sys.stdin.readline()
ours.close()  # what the task sees of a supervisor's end where sudo stands in between
sys.stdin.read()
"""


@pytest.fixture
def supervise() -> Iterator[Callable[..., Any]]:
    started = []

    def start(*arguments: str) -> Any:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        started.append((process, psutil.Process(int(process.stdout.readline()))))
        return started[-1]

    yield start
    for process, task in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            task.kill()
        with process:
            process.kill()


def test_a_killed_supervisor_stops_its_task(supervise: Callable[..., Any]) -> None:
    supervisor, _ = supervise()
    supervisor.send_signal(signal.SIGKILL)
    assert supervisor.stdout.read().split("\n")[:2] == ["told", "ended by itself"]


def test_a_closed_socket_stops_the_task_too(supervise: Callable[..., Any]) -> None:
    supervisor, _ = supervise()
    supervisor.stdin.write("close\n")
    supervisor.stdin.flush()
    assert [supervisor.stdout.readline().strip() for _ in range(2)] == ["told", "ended by itself"]


def test_a_task_that_does_not_listen_is_ended(supervise: Callable[..., Any], eventually: Callable[..., Any]) -> None:
    supervisor, task = supervise("deaf")
    supervisor.send_signal(signal.SIGKILL)
    assert supervisor.stdout.read() == "told\n"
    eventually(lambda: not task.is_running() or task.status() == psutil.STATUS_ZOMBIE)


def test_without_a_supervisor_nothing_is_watched(airflow_home: object) -> None:
    from airflow_mullama.operators.supervisor_watch import SupervisorWatch

    before = threading.active_count()
    with SupervisorWatch(threading.Event()):
        assert threading.active_count() == before
