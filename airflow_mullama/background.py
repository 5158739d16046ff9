"""Doing something long on a thread while this one stays free to be stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from airflow_mullama.errors import JobStoppedError

Result = TypeVar("Result")

POLL_SECONDS = 0.25
ABANDON_SECONDS = 2.0


class BackgroundWork(Generic[Result]):
    """Work on a thread of its own, begun at once.

    Args:
        work: gets a function to call often; that raises once nobody waits for the result any more.
        name: of the thread.
    """

    def __init__(self, work: Callable[[Callable[[], None]], Result], name: str) -> None:
        self._work = work
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._abandoned = threading.Event()
        self._patience_ends = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)
        self._thread.start()

    @property
    def error(self) -> BaseException | None:
        """What the work raised, if it did already."""
        return self._error

    def wait(self, raise_if_stopped: Callable[[], None]) -> Result:
        """Wait for the result; what the work raises is raised here.

        Args:
            raise_if_stopped: called often; what it raises ends the waiting, and the work.
        """
        try:
            while self._thread.is_alive():
                self._thread.join(POLL_SECONDS)
                if self._thread.is_alive():
                    raise_if_stopped()
        except BaseException:
            self.abandon()
            raise
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def give_up(self) -> None:
        """Nobody will wait any more: the work is to end, and has a moment to clean up from now on."""
        if not self._abandoned.is_set():
            self._patience_ends = time.monotonic() + ABANDON_SECONDS
            self._abandoned.set()

    def abandon(self) -> None:
        """Likewise, and wait for that moment; it is one, however often this is called."""
        self.give_up()
        self._thread.join(max(0.0, self._patience_ends - time.monotonic()))

    def _raise_if_abandoned(self) -> None:
        if self._abandoned.is_set():
            raise JobStoppedError("Stopped.")

    def _run(self) -> None:
        try:
            self._result = self._work(self._raise_if_abandoned)
        except BaseException as error:  # noqa: BLE001 - it is raised on the thread that waits
            self._error = error


def run_in_background(
    work: Callable[[Callable[[], None]], Result], raise_if_stopped: Callable[[], None], name: str
) -> Result:
    """Run ``work`` on a thread and wait for it: :class:`BackgroundWork` and its ``wait``."""
    return BackgroundWork(work, name).wait(raise_if_stopped)
