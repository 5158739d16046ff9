"""How far a job of several partitions is: what each of them tells, and the sum."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.progress import ProgressListener, Snapshot, WholeJob


class JobProgress:
    """A listener of each partition's progress: it tells the others of it, with the sum over all partitions.

    Args:
        listeners: who is told.
        clock: gives seconds, and never goes back.
    """

    def __init__(self, listeners: Sequence[ProgressListener], clock: Callable[[], float] = time.monotonic) -> None:
        self._listeners = listeners
        self._clock = clock
        self._rows: list[int] = []
        self._done = self._errors = self._ended = 0
        self._rated_rows = self._rated_seconds = 0.0
        self._began = 0.0

    def start(self, rows: Sequence[int]) -> None:
        """The work begins.

        Args:
            rows: of each partition, in the order in which they are done.
        """
        self._rows = list(rows)
        self._began = self._clock()

    def partition_ended(self, manifest: PartitionManifest) -> None:
        """A partition is done, or was already."""
        self._rows[self._ended] = manifest.rows
        self._ended += 1
        self._done += manifest.rows
        self._errors += manifest.failed_rows
        self._rated_rows += manifest.computed_rows + manifest.deduplicated_rows
        self._rated_seconds += manifest.seconds.engine
        self._began = self._clock()

    def announce(self, message: str) -> None:
        for listener in self._listeners:
            listener.announce(message)

    def progress(self, snapshot: Snapshot) -> None:
        whole = replace(snapshot, whole=self._whole(snapshot))
        for listener in self._listeners:
            listener.progress(whole)

    def advance(self, snapshot: Snapshot) -> None:
        whole = replace(snapshot, whole=self._whole(snapshot))
        for listener in self._listeners:
            listener.advance(whole)

    def _whole(self, snapshot: Snapshot) -> WholeJob:
        done = self._done + snapshot.done
        total = self._done + snapshot.total + sum(self._rows[self._ended + 1 :])
        # The partition in work has only begun to say how fast it is: those before it count with the time they took.
        seconds = self._clock() - self._began
        rated = self._rated_seconds + seconds
        rate = (self._rated_rows + snapshot.rows_per_second * seconds) / rated if rated > 0 else 0.0
        return WholeJob(
            done=done,
            total=total,
            errors=self._errors + snapshot.errors,
            eta_seconds=0.0 if done == total else (total - done) / rate if rate > 0 else None,
            partition_number=self._ended + 1,
            partition_count=len(self._rows),
        )
