"""The workers of a task behind one queue of events: started when a row first needs them, restarted when they die."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from airflow_mullama.engines.base import EngineInfo, EngineSettings
from airflow_mullama.gpus import GpuLease
from airflow_mullama.worker.client import Event, Exited, Refused, Started, Worker

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Seat:
    """Where a worker runs, and the worker that is there now.

    Args:
        number: from 0.
        environment: what its process gets over the task's own environment, such as the GPU it may see.
        worker: the one there is, loading or loaded.
        info: what it says of itself once it is loaded.
        load_seconds: what the last start took.
        restarted: a worker was here before, and is gone.
    """

    number: int
    environment: Mapping[str, str] = field(default_factory=dict)
    worker: Worker | None = None
    info: EngineInfo | None = None
    load_seconds: float = 0.0
    started_at: float = 0.0
    restarted: bool = False


class EngineSession:
    """Workers that come and go behind one queue of events.

    Args:
        engine: the engine's name.
        settings: what each worker is started with.
        lease: called when the first worker is started; one worker runs for each environment of what it returns. It may
            wait, for a free GPU.

    Attributes:
        task: what the engine does: ``generate`` or ``embed``.
        waited_seconds: how long it did.
    """

    def __init__(
        self,
        engine: str,
        settings: EngineSettings,
        lease: Callable[[], GpuLease] = GpuLease,
    ) -> None:
        self.engine = engine
        self.task = settings.task
        self._settings = settings
        self._take_lease = lease
        self._lease: GpuLease | None = None
        self.waited_seconds = 0.0
        self._lock = threading.Lock()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.seats: list[Seat] = []

    @property
    def info(self) -> EngineInfo | None:
        """What the engine says of itself; ``None`` while no worker is loaded."""
        return next((seat.info for seat in self.seats if seat.info is not None), None)

    @property
    def ready_seats(self) -> list[Seat]:
        """Those that rows may be sent to."""
        return [seat for seat in self.seats if seat.info is not None]

    @property
    def loading(self) -> bool:
        """Whether a worker is on its way and none is ready."""
        return self.info is None and any(seat.worker is not None for seat in self.seats)

    def start(self, count: int = 1, seats: Collection[int] = ()) -> bool:
        """Start the workers that are missing.

        Args:
            count: how many there should be, if there are that many seats.
            seats: numbers of seats that need a worker whatever the count.

        Returns:
            Whether one was started now.
        """
        if self._lease is None:
            self._lease = self._take_lease()
            self.waited_seconds = self._lease.waited_seconds
            self.seats = [Seat(number, environment) for number, environment in enumerate(self._lease.environments)]
            self._settings = replace(self._settings, workers=len(self.seats))
        present = sum(seat.worker is not None for seat in self.seats)
        started = False
        # Those that are needed first, so that they count.
        for seat in sorted(self.seats, key=lambda seat: seat.number not in seats):
            if seat.worker is None and (seat.number in seats or present < count):
                seat.started_at = time.monotonic()
                settings = replace(self._settings, restarted=seat.restarted)
                seat.worker = Worker(self.engine, settings, self._deliver, seat.environment)
                present += 1
                started = True
        return started

    def begin_run(self) -> queue.SimpleQueue[Event]:
        """A fresh queue of events for another run, so that nothing an earlier run left there is taken for its own.

        What the workers said of themselves in between is carried over; answers belong to rows of the earlier run.
        """
        with self._lock:
            earlier, self.events = self.events, queue.SimpleQueue()
            with contextlib.suppress(queue.Empty):
                while True:
                    event = earlier.get_nowait()
                    if isinstance(event, (Started, Refused, Exited)):
                        self.events.put(event)
            return self.events

    def _deliver(self, event: Event) -> None:
        with self._lock:
            self.events.put(event)

    def seat_of(self, worker: Worker) -> Seat | None:
        """The seat of a worker; ``None`` if it was given up before."""
        return next((seat for seat in self.seats if seat.worker is worker), None)

    def loaded(self, seat: Seat, info: EngineInfo) -> None:
        """Take note that a worker is ready."""
        seat.info = info
        seat.load_seconds = time.monotonic() - seat.started_at

    def lost(self, seat: Seat) -> None:
        """A worker died: forget it, and free what is left of it."""
        if seat.worker is not None:
            seat.worker.stop()
        seat.worker = None
        seat.info = None
        seat.restarted = True

    def close(self) -> None:
        """End the workers for good; their memory is free when this returns."""
        for seat in self.seats:
            self.lost(seat)
        if self._lease is not None:
            self._lease.close()
