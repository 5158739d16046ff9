"""How far the work is: counts, rates, time left, and who is told.

A listener gets a :class:`Snapshot` at most every five seconds or five percent, soon after the first result, and always
at the end. Listeners are called on the thread that runs the job and must not block.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from airflow_mullama.row_counts import RowCounts, add_up

log = logging.getLogger("airflow_mullama.progress")

EVERY_SECONDS = 5.0
EVERY_SHARE = 0.05
# Two lines are never closer than this, however fast five percent go by.
CLOSEST_SECONDS = 1.0


@dataclass(frozen=True)
class WholeJob:
    """Where a job stands that has several partitions.

    Args:
        done: rows accounted for, of all partitions.
        total: rows of all partitions.
        errors: rows that failed.
        eta_seconds: time left; ``None`` while it is unknown.
        partition_number: the partition in work, from 1.
        partition_count: all partitions.
    """

    done: int
    total: int
    errors: int
    eta_seconds: float | None
    partition_number: int
    partition_count: int


@dataclass(frozen=True)
class Snapshot:
    """Where a partition stands.

    Args:
        done: rows accounted for, also those of earlier attempts.
        total: rows of the partition.
        errors: rows that failed (a skipped row is not one of them).
        rows_per_second: of this attempt.
        tokens_per_second: prompt and answer tokens of this attempt.
        eta_seconds: time left at this rate; ``None`` while it is unknown.
        partition: the input's path.
        whole: the job that the partition is one of.
    """

    done: int
    total: int
    errors: int
    rows_per_second: float
    tokens_per_second: float
    eta_seconds: float | None
    partition: str
    whole: WholeJob | None = None

    @property
    def share(self) -> float:
        """Done of all, 0 to 1."""
        return self.done / self.total if self.total else 1.0

    def line(self) -> str:
        """``[1200/5000] 24.0% | 35.2 rows/s | 812 tok/s | ETA 1m48s | errors 3``."""
        eta = "ETA ?" if self.eta_seconds is None else f"ETA {format_seconds(self.eta_seconds)}"
        return (
            f"[{self.done}/{self.total}] {self._percent():.1f}% | {self.rows_per_second:.1f} rows/s | "
            f"{self.tokens_per_second:.0f} tok/s | {eta} | errors {self.errors}"
        )

    def _percent(self) -> float:
        # Rounded down: 2999 of 3000 is not 100 %.
        return math.floor(self.done * 1000 / self.total) / 10 if self.total else 100.0

    def to_json(self) -> dict[str, Any]:
        """As the task state store and the XCom ``progress`` hold it: the numbers of the whole job, and its place."""
        whole = self.whole or WholeJob(self.done, self.total, self.errors, self.eta_seconds, 1, 1)
        return {
            "done": whole.done,
            "total": whole.total,
            "errors": whole.errors,
            "rows_per_second": round(self.rows_per_second, 2),
            "tokens_per_second": round(self.tokens_per_second, 2),
            "eta_seconds": None if whole.eta_seconds is None else round(whole.eta_seconds, 1),
            "partition": self.partition,
            "partition_number": whole.partition_number,
            "partition_count": whole.partition_count,
            "partition_done": self.done,
            "partition_total": self.total,
        }


class ProgressListener(Protocol):
    """Whoever wants to know how far the work is."""

    def announce(self, message: str) -> None:
        """A step worth a line: loading a model, resuming, publishing."""
        ...

    def progress(self, snapshot: Snapshot) -> None:
        """The throttled numbers."""
        ...

    def advance(self, snapshot: Snapshot) -> None:
        """Every change, for a display that throttles itself."""
        ...


class ProgressLog:
    """Writes to ``logging``, which Airflow shows in the task's log."""

    def announce(self, message: str) -> None:
        log.info("%s", message)

    def progress(self, snapshot: Snapshot) -> None:
        log.info("%s", snapshot.line())

    def advance(self, snapshot: Snapshot) -> None:
        pass


class Progress:
    """Counts one partition's rows and tells the listeners.

    Args:
        total: rows of the partition.
        partition: the input's path, for people.
        listeners: who is told.
        clock: gives seconds, and never goes back.
    """

    def __init__(
        self,
        total: int,
        partition: str,
        listeners: Sequence[ProgressListener],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._partition = partition
        self._listeners = listeners
        self._clock = clock
        self._started: float | None = None
        self._told_at: float | None = None
        self._told_done = 0
        self.counts: RowCounts
        self.restart()

    def restart(self) -> None:
        """Count from nothing again; the time of the first row stays."""
        self.counts = RowCounts()
        self._computed_tokens = self._told_done = 0

    def engine_ready(self) -> None:
        """The rate counts from here: loading the model is not part of it."""
        if self._started is None:
            self._started = self._clock()

    def add(self, counts: RowCounts) -> None:
        """Add rows that are accounted for."""
        self.counts = add_up([self.counts, counts])
        if counts.computed_rows:
            self._computed_tokens += counts.prompt_tokens + counts.completion_tokens
        if counts.computed_rows or counts.deduplicated_rows:  # staged rows come in bulk and say nothing of the speed
            snapshot = self.snapshot()
            for listener in self._listeners:
                listener.advance(snapshot)

    @property
    def partition(self) -> str:
        """The input's path, for people."""
        return self._partition

    @property
    def done(self) -> int:
        """Rows that are accounted for."""
        return self.counts.rows

    def snapshot(self) -> Snapshot:
        """The numbers now."""
        elapsed = self._clock() - self._started if self._started is not None else 0.0
        rate = (self.counts.computed_rows + self.counts.deduplicated_rows) / elapsed if elapsed > 0 else 0.0
        left = self._total - self.done
        if left == 0:
            eta: float | None = 0.0
        else:
            eta = left / rate if rate > 0 else None
        return Snapshot(
            done=self.done,
            total=self._total,
            errors=self.counts.failed_rows,
            rows_per_second=rate,
            tokens_per_second=self._computed_tokens / elapsed if elapsed > 0 else 0.0,
            eta_seconds=eta,
            partition=self._partition,
        )

    def announce(self, message: str) -> None:
        """Tell the listeners of a step."""
        for listener in self._listeners:
            listener.announce(message)

    def finish(self) -> None:
        """The last line, always."""
        snapshot = self.snapshot()
        for listener in self._listeners:
            listener.advance(snapshot)
            listener.progress(snapshot)

    def tell_if_due(self) -> None:
        """Called often by the loop: tells the listeners if it is time to."""
        if self.counts.computed_rows == 0 or self.done >= self._total:
            return  # nothing to say yet, or the last line, which is for finish
        now = self._clock()
        if self._told_at is None:
            # A rate over a few milliseconds says nothing, so the first line waits a moment.
            due = self._started is None or now - self._started >= CLOSEST_SECONDS
        else:
            waited = now - self._told_at
            far = self.done - self._told_done >= EVERY_SHARE * self._total
            due = waited >= EVERY_SECONDS or (far and waited >= CLOSEST_SECONDS)
        if due:
            self._told_at, self._told_done = now, self.done
            snapshot = self.snapshot()
            for listener in self._listeners:
                listener.progress(snapshot)


def format_seconds(seconds: float) -> str:
    """``48s``, ``1m48s``, ``2h05m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
