"""Rows that fill a batch alone are in one pair of hands at a time.

While a row of 64 MiB is read, it is there several times: packed, unpacked, as a value; then as a prompt, or encoded for
the output. The thread that reads requests and the one that writes the output therefore take turns with such rows.
"""

from __future__ import annotations

import threading

import pyarrow as pa

# Taking turns saves memory and decides nothing: where the other thread hangs, one goes on without.
PATIENCE_SECONDS = 30.0


class Turns:
    """Whose turn it is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    def take(self) -> None:
        """Wait for the turn of this thread, and have it until :meth:`end`."""
        thread = threading.get_ident()
        if self._owner != thread and self._lock.acquire(timeout=PATIENCE_SECONDS):
            self._owner = thread

    def end(self) -> None:
        """It was this thread's turn, perhaps."""
        if self._owner == threading.get_ident():
            self.release()
            self._owner = None
            self._lock.release()

    @staticmethod
    def release() -> None:
        """Give back what was unpacked or encoded and is not needed any more: some of Arrow's allocators keep it."""
        pa.default_memory_pool().release_unused()


heavy_rows = Turns()
