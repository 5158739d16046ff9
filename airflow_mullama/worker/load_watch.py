"""Limits on the start of an engine, kept by the parent: while a model loads, its worker can watch nothing itself.

A model brings a chat template, which is a program: one that never ends, or that doubles a text forever, runs inside
the engine's native code with the interpreter lock held.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

POLL_SECONDS = 0.25


class LoadWatch:
    """Watches one start, on a thread of its own, until it is over or beyond a limit.

    Args:
        pid: the worker's process id.
        seconds: how long the start may take.
        most_memory: gives the bytes that the process may have of its own, or ``None`` for no limit. Called once, on the
            thread, and only if the start takes a moment.
        give_up: called once with the reason, if a limit is passed.
    """

    def __init__(
        self, pid: int, seconds: float, most_memory: Callable[[], int | None], give_up: Callable[[str], None]
    ) -> None:
        self._pid = pid
        self._seconds = seconds
        self._most_memory = most_memory
        self._give_up = give_up
        self._over = threading.Event()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="mullama-load-watch")
        self._thread.start()

    def over(self) -> None:
        """The engine has started, or never will."""
        self._over.set()

    def join(self) -> None:
        """Wait until nothing is watched any more."""
        self._thread.join()

    def _watch(self) -> None:
        limit: int | None = None
        looked_up = False
        while not self._over.wait(POLL_SECONDS):
            if time.monotonic() - self._started > self._seconds:
                self._give_up(
                    f"the engine was not ready within load_timeout={self._seconds:g} s; raise it for a model on a slow "
                    "disk or a slow server (a chat template that never ends looks the same)"
                )
                return
            if not looked_up:
                limit, looked_up = self._most_memory(), True
            if limit is not None and (used := own_memory(self._pid)) > limit:
                self._give_up(
                    f"the engine's process had {used / 1e9:.1f} GB of its own, where weights and context explain "
                    f"{limit / 1e9:.1f} GB at most; the model's chat template, which is a program, may be at fault: "
                    "take the model from a source that you trust"
                )
                return


def own_memory(pid: int) -> int:
    """Bytes of memory that a process wrote to itself: without files that it maps, such as weights. 0 if not known."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE):
            return int(found[1]) << 10
    return 0
