"""Ending a task whose supervisor is gone: Airflow starts another attempt then, and this one must not compute beside it.

The supervisor is the process that started the task's: of the executor, or of a Celery worker. When it is killed the
task's process is told nothing by Airflow, and would go on until its work is done.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading

from airflow_mullama.compat import supervisor_socket

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
# Airflow itself gives a task this long from SIGTERM to SIGKILL.
PATIENCE_SECONDS = 5.0


class SupervisorWatch:
    """A context manager: while it lasts, the end of the task's supervisor stops the job.

    Where there is no supervisor, as in ``dag.test()``, nothing is watched.

    Args:
        stop: set when the supervisor is gone. If the work is not over a few seconds later, the process ends.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._over = threading.Event()
        self._parent = os.getppid()
        self._socket = supervisor_socket()

    def __enter__(self) -> SupervisorWatch:
        if self._socket is not None:
            threading.Thread(target=self._watch, daemon=True, name="mullama-supervisor-watch").start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._is_gone():
            if self._over.wait(POLL_SECONDS):
                return
        self._stop.set()
        with contextlib.suppress(OSError):  # the log went to the supervisor too, or to a file
            log.error("Airflow's supervisor of this task is gone: the task ends, and what is finished is kept")
        if not self._over.wait(PATIENCE_SECONDS):
            os._exit(1)

    def _is_gone(self) -> bool:
        # Under run_as_user the parent is sudo, which stays: then the closed socket tells.
        return os.getppid() != self._parent or _is_hung_up(self._socket)


def _is_hung_up(descriptor: int | None) -> bool:
    if descriptor is None:
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))
