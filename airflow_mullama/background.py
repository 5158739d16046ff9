"""Doing something long on a thread while this one stays free to be stopped."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from airflow_mullama.errors import JobStoppedError

Result = TypeVar("Result")

POLL_SECONDS = 0.25
ABANDON_SECONDS = 2.0


def run_in_background(
    work: Callable[[Callable[[], None]], Result], raise_if_stopped: Callable[[], None], name: str
) -> Result:
    """Run ``work`` on a thread and wait for it.

    Args:
        work: gets a function to call often; that raises once nobody waits for the result any more.
        raise_if_stopped: called often on this thread; what it raises ends the waiting.
        name: of the thread.

    Returns:
        What ``work`` returns; what it raises is raised here.
    """
    outcome: queue.SimpleQueue[tuple[bool, Result | BaseException]] = queue.SimpleQueue()
    abandoned = threading.Event()

    def check() -> None:
        if abandoned.is_set():
            raise JobStoppedError("Stopped.")

    def run() -> None:
        try:
            outcome.put((True, work(check)))
        except BaseException as error:  # noqa: BLE001 - it is raised on the thread that waits
            outcome.put((False, error))

    thread = threading.Thread(target=run, daemon=True, name=name)
    thread.start()
    try:
        while True:
            try:
                good, value = outcome.get(timeout=POLL_SECONDS)
            except queue.Empty:
                raise_if_stopped()
                continue
            break
    except BaseException:
        abandoned.set()
        thread.join(ABANDON_SECONDS)
        raise
    if good:
        return value  # type: ignore[return-value]
    raise value  # type: ignore[misc]
