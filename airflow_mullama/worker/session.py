"""One engine for all partitions of a task: started when a row first needs it, restarted when it dies."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time

from airflow_mullama.engines.base import EngineInfo, EngineSettings
from airflow_mullama.worker.client import WORKER_EVENTS, Event, Worker

log = logging.getLogger(__name__)


class EngineSession:
    """A worker that comes and goes behind one queue of events.

    Args:
        engine: the engine's name.
        settings: what it is started with.

    Attributes:
        load_seconds: what the last start took.
    """

    def __init__(self, engine: str, settings: EngineSettings) -> None:
        self.engine = engine
        self._settings = settings
        self._lock = threading.Lock()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.info: EngineInfo | None = None
        self.load_seconds = 0.0
        self._worker: Worker | None = None
        self._started_at = 0.0

    @property
    def worker(self) -> Worker | None:
        """The worker there is, loading or loaded."""
        return self._worker

    @property
    def ready(self) -> bool:
        """Whether rows may be sent."""
        return self._worker is not None and self.info is not None

    def start(self) -> bool:
        """Start the worker unless it is there; whether it was started now."""
        if self._worker is not None:
            return False
        self._started_at = time.monotonic()
        self._worker = Worker(self.engine, self._settings, self._deliver)
        return True

    def begin_run(self) -> queue.SimpleQueue[Event]:
        """A fresh queue of events for another run, so that nothing an earlier run left there is taken for its own.

        What the worker said in between is carried over.
        """
        with self._lock:
            earlier, self.events = self.events, queue.SimpleQueue()
            with contextlib.suppress(queue.Empty):
                while True:
                    event = earlier.get_nowait()
                    if isinstance(event, WORKER_EVENTS):
                        self.events.put(event)
            return self.events

    def _deliver(self, event: Event) -> None:
        with self._lock:
            self.events.put(event)

    def loaded(self, info: EngineInfo) -> None:
        """Take note that the engine is ready."""
        self.info = info
        self.load_seconds = time.monotonic() - self._started_at

    def lost(self) -> None:
        """The worker died: forget it, and free what is left of it."""
        if self._worker is not None:
            self._worker.stop()
        self._worker = None
        self.info = None

    def close(self) -> None:
        """End the worker for good; its memory is free when this returns."""
        self.lost()
