"""The command line where it meets the signals of a terminal; its commands are run in the tests of what they do."""

from __future__ import annotations

import io
import os
import signal
import threading
from typing import Any

from rich.console import Console

from airflow_mullama.commands.stopping import stop_on_signals


def test_a_signal_in_the_middle_of_a_line_of_output_stops_without_an_error():
    class SignalsWhileWriting(io.RawIOBase):
        written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if not stop.is_set():
                os.kill(os.getpid(), signal.SIGINT)  # a buffered writer refuses to be entered again from a handler
            self.written += bytes(data)
            return len(data)

    stop = threading.Event()
    raw = SignalsWhileWriting()
    console = Console(file=io.TextIOWrapper(io.BufferedWriter(raw), write_through=True))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop_on_signals(stop, console)
        console.print("loading")
        console.file.flush()
        assert stop.is_set()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert raw.written.startswith(b"loading")
