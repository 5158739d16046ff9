"""How far the work is: counts, rates, time left, and who is told.

A listener gets a :class:`Snapshot` at most every five seconds or five percent, soon after the first result, and always
at the end. Listeners are called on the thread that runs the job and must not block.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

log = logging.getLogger("airflow_mullama.progress")

EVERY_SECONDS = 5.0
EVERY_SHARE = 0.05
# Two lines are never closer than this, however fast five percent go by.
CLOSEST_SECONDS = 1.0


@dataclass(frozen=True)
class Snapshot:
    """Where a partition stands.

    Args:
        done: rows accounted for, also those of earlier attempts.
        total: rows of the partition.
        errors: rows that failed (a skipped row is none).
        rows_per_second: of this attempt.
        tokens_per_second: prompt and answer tokens of this attempt.
        eta_seconds: time left at this rate; ``None`` while it is unknown.
        partition: the input's path.
    """

    done: int
    total: int
    errors: int
    rows_per_second: float
    tokens_per_second: float
    eta_seconds: float | None
    partition: str

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
        """As the task state store and the XCom ``progress`` hold it."""
        return {
            **asdict(self),
            "rows_per_second": round(self.rows_per_second, 2),
            "tokens_per_second": round(self.tokens_per_second, 2),
            "eta_seconds": None if self.eta_seconds is None else round(self.eta_seconds, 1),
        }


class ProgressListener(Protocol):
    """Somebody who wants to know."""

    def announce(self, message: str) -> None:
        """A step worth a line: loading a model, resuming, publishing."""
        ...

    def progress(self, snapshot: Snapshot) -> None:
        """The throttled numbers."""
        ...

    def advance(self, snapshot: Snapshot) -> None:
        """Every change, for a display that throttles itself."""
        ...


class LogListener:
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
        clock: seconds that only grow.
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
        self.status_counts: dict[str, int]
        self.error_types: dict[str, int]
        self.restart()

    def restart(self) -> None:
        """Count from nothing again; the time of the first row stays."""
        self.status_counts, self.error_types = {}, {}
        self.attempts = self.prompt_tokens = self.completion_tokens = self.done = 0
        self._computed = self._computed_tokens = self._told_done = self.deduplicated_rows = 0
        self.truncated_rows = 0

    def engine_ready(self) -> None:
        """The rate counts from here: loading the model is not part of it."""
        if self._started is None:
            self._started = self._clock()

    def count(
        self,
        *,
        status_counts: Mapping[str, int],
        error_types: Mapping[str, int],
        attempts: int,
        prompt_tokens: int,
        completion_tokens: int,
        computed: bool,
        deduplicated: bool = False,
        truncated_rows: int = 0,
    ) -> None:
        """Add rows that are accounted for.

        Args:
            computed: whether the engine did them in this attempt, so that they say something of its speed.
            deduplicated: whether they got the outcome of another row with the same request.
            truncated_rows: those of them whose text was cut.
        """
        _add(self.status_counts, status_counts)
        _add(self.error_types, error_types)
        rows = sum(status_counts.values())
        self.done += rows
        self.attempts += attempts
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.truncated_rows += truncated_rows
        if computed:
            self._computed += rows
            self._computed_tokens += prompt_tokens + completion_tokens
        if deduplicated:
            self.deduplicated_rows += rows
        if computed or deduplicated:
            snapshot = self.snapshot()
            for listener in self._listeners:
                listener.advance(snapshot)

    @property
    def computed_rows(self) -> int:
        """Rows the engine did in this attempt."""
        return self._computed

    def snapshot(self) -> Snapshot:
        """The numbers now."""
        elapsed = self._clock() - self._started if self._started is not None else 0.0
        rate = (self._computed + self.deduplicated_rows) / elapsed if elapsed > 0 else 0.0
        left = self._total - self.done
        if left == 0:
            eta: float | None = 0.0
        else:
            eta = left / rate if rate > 0 else None
        return Snapshot(
            done=self.done,
            total=self._total,
            errors=sum(count for status, count in self.status_counts.items() if status not in ("success", "skipped")),
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
        if self._computed == 0 or self.done >= self._total:
            return  # nothing to say yet, or the last line is finish's
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


def _add(total: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        if count:
            total[name] = total.get(name, 0) + count
