"""Keeps the demo's Airflow components, and ends them with everything they started when the demo is gone.

Run as ``python -m airflow_mullama.demo.airflow.supervisor``. Each line of standard input, a JSON object, starts one.
The end of standard input means stop: it comes when the demo closes the pipe, and also when the demo is killed, by
whatever signal. A component that ends on its own is a reason to stop too; standard output then names it.

Each component leads a session of its own, so that a Ctrl-C in the terminal does not reach it, and so that whatever it
starts can be found: Airflow puts its tasks into new process groups, never into new sessions.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import IO

import psutil  # type: ignore[import-untyped]

# A component that hands out tasks is told to stop first, and the others only when the tasks have ended: a task needs
# the API server to say how it ended.
TASK_GRACE_SECONDS = 6.0
COMPONENT_GRACE_SECONDS = 3.0
KILL_SECONDS = 3.0
STOP_SECONDS = TASK_GRACE_SECONDS + COMPONENT_GRACE_SECONDS + KILL_SECONDS
_POLL_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1


class Components:
    """The components that run, by name.

    Args:
        task_starter: name of the component that starts tasks.
    """

    def __init__(self, task_starter: str = "scheduler") -> None:
        self._task_starter = task_starter
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], log: str) -> None:
        """Start a component; what it prints goes to the file ``log``."""
        with open(log, "wb") as output:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_end_with_parent(os.getpid()),
            )

    def ended(self) -> tuple[str, int] | None:
        """Name and exit status of a component that is no longer running."""
        for name, process in self._processes.items():
            if (status := process.poll()) is not None:
                return name, status
        return None

    def stop(self) -> None:
        """Tasks first, so that they keep what they finished; then the components; then whatever is left of either."""
        self._signal_component(self._task_starter)
        _send(self._tasks(), signal.SIGTERM)
        self._wait(lambda: not self._tasks(), TASK_GRACE_SECONDS)
        for name in self._processes:
            if name != self._task_starter:
                self._signal_component(name)
        self._wait(lambda: not self._left(), COMPONENT_GRACE_SECONDS)
        _send(self._left(), signal.SIGKILL)
        self._wait(lambda: not self._left(), KILL_SECONDS)

    def _signal_component(self, name: str) -> None:
        process = self._processes.get(name)
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)

    def _left(self) -> list[int]:
        """All processes of the components' sessions."""
        sessions = {process.pid for process in self._processes.values()}
        return [pid for pid in psutil.pids() if _session_of(pid) in sessions and not _is_zombie(pid)]

    def _tasks(self) -> list[int]:
        """Running tasks: each leads its own process group inside the session of the component that started it."""
        starter = self._processes.get(self._task_starter)
        if starter is None:
            return []
        return [
            pid
            for pid in self._left()
            if pid != starter.pid and _session_of(pid) == starter.pid and _process_group_of(pid) == pid
        ]

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for process in self._processes.values():
                process.poll()  # a child that is not waited for stays as a zombie
            if condition():
                return
            time.sleep(_POLL_SECONDS)


def main() -> int:
    """Serve one demo until it is gone or a component ends on its own."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    orders: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    signal.signal(signal.SIGTERM, lambda *_: orders.put(None))
    threading.Thread(target=_read_orders, args=(sys.stdin, orders), daemon=True).start()
    components = Components()
    try:
        return _serve(components, orders)
    finally:
        components.stop()


def _serve(components: Components, orders: queue.SimpleQueue[str | None]) -> int:
    while True:
        try:
            order = orders.get(timeout=0.2)
        except queue.Empty:
            if (ended := components.ended()) is not None:
                name, status = ended
                sys.stdout.write(json.dumps({"ended": name, "status": status}) + "\n")
                sys.stdout.flush()
                return 1
            continue
        if order is None:
            return 0
        components.start(**json.loads(order))


def _read_orders(source: IO[str], orders: queue.SimpleQueue[str | None]) -> None:
    for line in source:
        orders.put(line)
    orders.put(None)


def _end_with_parent(parent: int) -> Callable[[], None] | None:
    """What a child runs between fork and exec, where the system can end a child with its parent (Linux)."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def run() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return run


def _send(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _process_group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True


if __name__ == "__main__":
    sys.exit(main())
