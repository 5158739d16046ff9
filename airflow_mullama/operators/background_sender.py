"""Telling Airflow how far the work is without waiting for it: its API server may stand still, the engine may not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Value = TypeVar("Value")

# How long the last value is waited for when the work is over: what the task itself has to say then comes behind it.
LAST_SECONDS = 5.0


class BackgroundSender(Generic[Value]):
    """Sends the newest of the values that it is given, one at a time, on a thread of its own.

    A value that a newer one overtakes is not sent. If one cannot be sent, the log says so once, and the next is tried.

    Args:
        send: takes a value, and may block or raise.
        in_background: whether ``send`` may be called from a thread; else it is called at once.
    """

    def __init__(self, send: Callable[[Value], None], *, in_background: bool) -> None:
        self._send = send
        self._in_background = in_background
        self._changed = threading.Condition()
        self._waiting: list[Value] = []
        self._sending = self._closed = self._failing = False
        self._thread: threading.Thread | None = None

    def offer(self, value: Value) -> None:
        """Send a value soon, unless there is a newer one by then."""
        if not self._in_background:
            self._try_to_send(value)
            return
        with self._changed:
            if self._closed:
                return
            self._waiting = [value]
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_forever, daemon=True, name="mullama-progress")
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Wait a moment until the last value is sent; from here on nothing is."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._sending, LAST_SECONDS)
            self._closed = True
            self._waiting = []
            self._changed.notify_all()

    def _send_forever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._waiting))
                if self._closed:
                    return
                value = self._waiting.pop()
                self._sending = True
            self._try_to_send(value)
            with self._changed:
                self._sending = False
                self._changed.notify_all()

    def _try_to_send(self, value: Value) -> None:
        try:
            self._send(value)
        except Exception as error:  # noqa: BLE001 - showing progress must never cost the work it is about
            if not self._failing:
                log.warning("progress is shown in this log only until Airflow takes it again (%s)", error)
            self._failing = True
        else:
            if self._failing:
                log.info("Airflow takes the progress again")
            self._failing = False
