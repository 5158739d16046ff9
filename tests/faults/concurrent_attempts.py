"""Attempts at one partition, one after the other, each when it is told to. Run as a script; lines of JSON go both ways.

An order is ``{"job", "input", "output", "seed", "hold"}``. The attempt waits a random moment at random steps, so that
no two rounds are alike; at its first arrival at the step ``hold`` it says so and waits for a line.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
import traceback
from typing import Any

from airflow_mullama import fail_points as steps
from airflow_mullama.errors import MullamaError
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.run.runner import run_partition
from airflow_mullama.worker import client
from tests.forked_workers import ForkedWorkers

LONGEST_WAIT_SECONDS = 0.004


def say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)  # noqa: T201 - standard output is the way back


class Pace:
    """Makes every round another interleaving."""

    def __init__(self, seed: int, hold: str | None) -> None:
        self._random = random.Random(seed)
        self._hold = hold
        self._lock = threading.Lock()

    def __call__(self, step: str) -> None:
        with self._lock:
            held, self._hold = step == self._hold, None if step == self._hold else self._hold
            wait = self._random.uniform(0.0, LONGEST_WAIT_SECONDS) if self._random.random() < 0.05 else 0.0
        if held:
            say({"held": step})
            sys.stdin.readline()
        elif wait:
            time.sleep(wait)


def attempt(order: dict[str, Any]) -> dict[str, Any]:
    steps.observer = Pace(order["seed"], order["hold"])
    try:
        manifest = run_partition(GenerateJob(**order["job"]), order["input"], order["output"], listeners=[])
    except MullamaError as error:
        return {"outcome": type(error).__name__, "message": str(error), "expected": True}
    except Exception:  # noqa: BLE001 - what it was is for the test to judge
        return {"outcome": "unexpected", "message": traceback.format_exc(), "expected": False}
    return {"outcome": "ok", "rows": manifest.rows, "status_counts": dict(manifest.status_counts), "expected": True}


def main() -> None:
    os.fsync = lambda handle: None  # a busy disk proves nothing
    client.start_process = ForkedWorkers().start
    say({"ready": True})
    while line := sys.stdin.readline():
        say(attempt(json.loads(line)))


if __name__ == "__main__":
    main()
