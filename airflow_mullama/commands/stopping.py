"""Ctrl-C and SIGTERM, while a command works."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from rich.console import Console


def stop_on_signals(
    stop: threading.Event,
    console: Console,
    message: str = "stopping: what is finished is kept (again to stop at once)",
) -> None:
    """The first Ctrl-C (or SIGTERM) ends the job with what is finished kept; a second one ends it at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        # Nothing else may happen here: the interrupted code may be in the middle of a line of output.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stop.set()

    def say_so() -> None:
        stop.wait()
        console.print(message, style="dim")

    threading.Thread(target=say_so, daemon=True, name="mullama-stopping").start()
    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
