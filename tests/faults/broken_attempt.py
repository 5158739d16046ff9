"""One attempt at a partition that something happens to. Its order is JSON, in the argument."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import psutil

from airflow_mullama import fail_points as steps
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.run.runner import run_partition

PUBLISHING_STEPS = ("commit", "write", "publish")
PATIENCE_SECONDS = 30.0


class InjectedError(Exception):
    """What is raised where nothing would fail by itself."""


class StopRequest(threading.Event):
    """Knows whether the run has seen it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = threading.Event()

    def is_set(self) -> bool:
        value = super().is_set()
        if value:
            self.seen.set()
        return value


def worker_pids() -> list[int]:
    return [child.pid for child in psutil.Process().children()]


class Fault:
    """Counts the arrivals at a step and strikes at the one ordered."""

    def __init__(self, order: dict[str, Any], stop: StopRequest) -> None:
        self._order = order
        self._stop = stop
        self._arrivals = 0
        self._lock = threading.Lock()

    def __call__(self, step: str) -> None:
        if step != self._order["step"]:
            return
        with self._lock:
            self._arrivals += 1
            if self._arrivals != self._order["arrival"]:
                return
        workers = worker_pids()
        with open(self._order["marks"], "a") as marks:
            marks.write(json.dumps({"step": step, "workers": len(workers)}) + "\n")
        strike: Callable[[str, list[int]], None] = getattr(self, f"_{self._order['fault']}")
        strike(step, workers)

    def _exception(self, step: str, workers: list[int]) -> None:
        raise InjectedError(f"injected at {step}")

    def _disk_full(self, step: str, workers: list[int]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _worker_killed(self, step: str, workers: list[int]) -> None:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)

    def _process_killed(self, step: str, workers: list[int]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _group_killed(self, step: str, workers: list[int]) -> None:
        os.killpg(0, signal.SIGKILL)

    def _stop_signal(self, step: str, workers: list[int]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        if step in PUBLISHING_STEPS:
            # The thread that writes the output would be done before the main thread looks.
            self._stop.seen.wait(PATIENCE_SECONDS)


def main() -> None:
    order = json.loads(sys.argv[1])
    os.fsync = lambda handle: None  # a dead process loses nothing that it wrote; a busy disk proves nothing
    stop = StopRequest()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    steps.observer = Fault(order, stop)
    try:
        run_partition(GenerateJob(**order["job"]), order["input"], order["output"], listeners=[], stop=stop)
        result = {"outcome": "ok"}
    except Exception as error:  # noqa: BLE001 - what it was is for the test to judge
        traceback.print_exc()
        result = {"outcome": type(error).__name__, "message": str(error)}
    with open(order["report"], "w") as report:
        json.dump(result, report)


if __name__ == "__main__":
    main()
