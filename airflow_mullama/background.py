"""Doing something long on a thread while this one stays free to be stopped."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

from airflow_mullama.errors import JobStoppedError

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL_SECONDS = 0.25
ABANDON_SECONDS = 2.0


class BackgroundWork(Generic[Result]):
    """Work on a thread of its own, begun at once.

    Args:
        work: gets a function to call often; which raises once nobody waits for the result any more.
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
        """Say that nobody waits any more: the work is to end, and from now on has a moment to clean up."""
        if not self._abandoned.is_set():
            self._patience_ends = time.monotonic() + ABANDON_SECONDS
            self._abandoned.set()

    def abandon(self) -> None:
        """The same, and wait for that moment; there is only one, however often this is called."""
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


def begin(work: Callable[[], Result], name: str) -> Future[Result]:
    """Run ``work`` on a thread of its own, which no end of the process waits for.

    Args:
        work: what to do; what it raises is raised where the result is asked for.
        name: of the thread.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised on the thread that asks
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name=name).start()
    return future


def map_ahead(work: Callable[[Item], Result], items: Iterable[Item], at_once: int, name: str) -> Iterator[Result]:
    """The results of ``work`` for each item, in their order, several of which are worked on before they are asked for.

    Args:
        work: what to do with an item; what it raises is raised when its turn comes.
        items: taken as they are needed.
        at_once: the most that are worked on or wait to be taken; with 1 nothing is done ahead, and on no other thread.
        name: of the threads.
    """
    if at_once == 1:
        yield from map(work, items)
        return
    ahead: deque[Future[Result]] = deque()
    for item in items:
        ahead.append(begin(partial(work, item), name))
        if len(ahead) == at_once:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()
