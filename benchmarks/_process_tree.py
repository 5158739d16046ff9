"""What a command and every process that it starts take of the CPU, those that have ended included."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Reading:
    """Since the command began, in seconds.

    Attributes:
        wall: of the clock.
        cpu: user and system time of the command's processes.
        beside: user and system time of a process that is none of them.
    """

    wall: float
    cpu: float
    beside: float

    def __sub__(self, other: Reading) -> Reading:
        return Reading(self.wall - other.wall, self.cpu - other.cpu, self.beside - other.beside)


class _Tree:
    """CPU seconds of each process of a tree, as they were when it was last seen.

    Once seen, a process stays in the tree when its parent ends before it.
    """

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self._living = {root}
        self._seconds: dict[psutil.Process, float] = {}
        self._waited_for = 0.0
        self._lock = threading.Lock()

    def sample(self) -> None:
        with self._lock:
            for process in list(self._living):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._living.update(process.children(recursive=True))
            for process in list(self._living):
                try:
                    times = process.cpu_times()
                except psutil.NoSuchProcess:
                    self._living.discard(process)
                    continue
                self._seconds[process] = times.user + times.system
                if process == self._root:
                    self._waited_for = max(self._waited_for, sum(times[:4]))

    def seconds(self) -> float:
        """The larger of two counts that both lack something.

        What the kernel adds up for the root lacks processes that nobody waited for; the samples lack what a process
        did in its last tenth of a second.
        """
        with self._lock:
            return max(sum(self._seconds.values()), self._waited_for)

    def end(self, root_and_waited_for: float) -> None:
        """Kill what the root left running."""
        with self._lock:
            self._waited_for = max(self._waited_for, root_and_waited_for)
            for process in self._living - {self._root}:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def readings(
    command: Sequence[str], environment: Mapping[str, str], log: Path, beside: psutil.Process, limit_seconds: float
) -> Iterator[Reading]:
    """Run a command: a reading at each line that it writes, which waits meanwhile, and one at its end.

    Args:
        command: writes a line to its standard output when something is to be measured, and then reads one.
        environment: of the process.
        log: takes its standard error.
        beside: a process whose CPU time is read at the same moments.
        limit_seconds: it is killed after so many.

    Raises:
        RuntimeError: it fails, or was killed; the end of the log is in the message.
    """

    def seconds_beside() -> float:
        times = beside.cpu_times()
        return float(times.user + times.system)

    with log.open("wb") as errors:
        started, beside_before = time.perf_counter(), seconds_beside()
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
    assert process.stdin is not None
    assert process.stdout is not None
    tree, ended = _Tree(psutil.Process(process.pid)), threading.Event()

    def reading() -> Reading:
        wall = time.perf_counter() - started
        return Reading(wall, tree.seconds(), seconds_beside() - beside_before)

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            tree.sample()

    watcher, limit = threading.Thread(target=watch), threading.Timer(limit_seconds, process.kill)
    watcher.start()
    limit.start()
    finished = False
    try:
        while process.stdout.readline():
            tree.sample()
            yield reading()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(b"\n")
                process.stdin.flush()
        finished = True
    finally:
        if not finished:
            process.kill()
        _, status, usage = os.wait4(process.pid, 0)
        limit.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
        tree.end(usage.ru_utime + usage.ru_stime)
        process.stdin.close()
        process.stdout.close()
    if process.returncode:
        said = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(command[:3])} ended with status {process.returncode}:\n{said}")
    yield reading()
