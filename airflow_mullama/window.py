"""The window of rows in flight: refilled continuously, retried row by row, proof against a worker that dies.

Rows are offered in order and come back in any order, each exactly once. When the worker dies, the rows in flight are
asked again one at a time until the row that kills it is known; that row gets ``engine_crash`` and the others their
results. Several workers share the window; what happens to one is no matter of the others' rows.
"""

from __future__ import annotations

import heapq
import logging
import random
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.engines.base import ROWS_PER_WORKER
from airflow_mullama.errors import EngineFailedError, WorkerCrashError
from airflow_mullama.prefix_order import side_by_side
from airflow_mullama.rows import INVALID_OUTPUT_TYPES, RETRYABLE_ERROR_TYPES, ErrorType
from airflow_mullama.steps import reached
from airflow_mullama.worker.client import Event, Exited, Outcomes, Refused, Started, Stuck, request_batch
from airflow_mullama.worker.session import EngineSession, Seat

log = logging.getLogger(__name__)

RETRY_FIRST_SECONDS = 0.2
RETRY_LONGEST_SECONDS = 30.0
RESTARTS_WITHOUT_PROGRESS = 3
# Rows that each kill the worker, one after the other with no row succeeding in between: then it is not the rows.
CRASHES_IN_A_ROW = 10
# Likewise for rows that do not end.
HANGS_IN_A_ROW = 50
# Likewise for rows that a server did not answer, all tries of each.
UNANSWERED_IN_A_ROW = 50
UNANSWERED_TYPES = (ErrorType.HTTP_ERROR.value, ErrorType.RATE_LIMITED.value)
# So many rows, the first of a session, all failing alike: the engine is dead and the other rows are not spent on it.
DEAD_ENGINE_ROWS = 16

# An answer that breaks the schema is asked again only within a run, where the next try is a different one: another run
# would ask the same and get the same.
ASKED_AGAIN = (*RETRYABLE_ERROR_TYPES, *INVALID_OUTPUT_TYPES)

Item = tuple[int, int, str]  # row, attempt, text

CAPACITY_UNTIL_LOADED = 64


@dataclass
class Lane:
    """What the window knows of the worker in one seat.

    Args:
        in_flight: rows that the worker has.
        suspects: rows that an earlier worker of this seat had when it died; they are tried one by one.
        isolated: the suspect that is being tried.
        restarts: of the worker, since it last brought an outcome.
    """

    in_flight: dict[int, Item] = field(default_factory=dict)
    suspects: deque[Item] = field(default_factory=deque)
    isolated: int | None = None
    restarts: int = 0


class RequestWindow:
    """Keeps the engine busy with one partition's rows.

    Args:
        session: the engine.
        task: ``generate`` or ``embed``.
        max_retries: further tries of a row whose error is retryable.
    """

    def __init__(self, session: EngineSession, task: str, max_retries: int) -> None:
        self._session = session
        self._task = task
        self._max_retries = max_retries
        self._pending: deque[Item] = deque()
        self._retries: list[tuple[float, int, Item]] = []
        self._lanes: defaultdict[int, Lane] = defaultdict(Lane)
        self._problems: dict[int, str] = {}
        self._stuck: set[int] = set()
        self._shared: set[int] = set()
        self._crashes = 0
        self._hangs = 0
        self._unanswered = 0
        self._first_errors: list[str] | None = []
        self._random = random.Random(0)

    @property
    def idle(self) -> bool:
        """No row is known here that has no outcome yet."""
        return not (self._waiting or self.busy)

    @property
    def busy(self) -> bool:
        """The engine has rows."""
        return any(lane.in_flight for lane in self._lanes.values())

    @property
    def rows_in_flight(self) -> list[int]:
        """The rows that the engine has."""
        return [row for lane in self._lanes.values() for row in lane.in_flight]

    @property
    def wants_rows(self) -> bool:
        """Whether more rows should be offered, so that the engine will not run dry."""
        capacity = sum(seat.info.window for seat in self._session.seats if seat.info) or CAPACITY_UNTIL_LOADED
        return self._waiting < 2 * capacity

    @property
    def _waiting(self) -> int:
        return len(self._pending) + len(self._retries) + sum(len(lane.suspects) for lane in self._lanes.values())

    def offer(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Queue requests; they are sent by :meth:`send`."""
        self._pending.extend(self._arranged([(row, 1, text) for row, text in zip(rows, texts, strict=True)]))

    def _arranged(self, items: list[Item]) -> list[Item]:
        info = self._session.info
        if info is None:
            return items  # again when it is known how many run at once
        order = side_by_side([text for _, _, text in items], info.n_parallel)
        return items if order is None else [items[position] for position in order]

    def send(self) -> bool:
        """Fill the window, or start workers that are missing; whether one was started now."""
        waiting = self._waiting
        if not waiting:
            return False
        suspicious = {number for number, lane in self._lanes.items() if lane.suspects}
        started = self._session.start(-(-waiting // ROWS_PER_WORKER), suspicious)
        ready = self._session.ready_seats
        for seat in ready:
            lane = self._lanes[seat.number]
            assert seat.info is not None
            for items in self._next_items(lane, seat.info.window, len(ready)):
                reached("send")
                self._send(seat, lane, items)
        return started

    def _send(self, seat: Seat, lane: Lane, items: list[Item]) -> None:
        lane.in_flight.update((item[0], item) for item in items)
        assert seat.worker is not None
        seat.worker.send(
            request_batch(
                pa.array([item[0] for item in items], pa.int64()),
                pa.array([item[1] for item in items], pa.int32()),
                pa.array([item[2] for item in items], pa.large_string()),
                pa.array([self._problems.get(item[0]) for item in items], pa.string()),
            )
        )

    def _next_items(self, lane: Lane, capacity: int, lanes: int) -> Iterator[list[Item]]:
        if lane.isolated in lane.in_flight:
            return  # alone means alone, the last suspect too
        if lane.suspects:
            if not lane.in_flight:
                lane.isolated = lane.suspects[0][0]
                yield [lane.suspects.popleft()]
            return
        room = capacity - len(lane.in_flight)
        now = time.monotonic()
        due: list[Item] = []
        while self._retries and self._retries[0][0] <= now and len(due) < room:
            due.append(heapq.heappop(self._retries)[2])
        if due:
            room -= len(due)
            yield due
        # Few larger batches instead of many small ones, but never let the engine's own queue run dry.
        if room >= max(1, capacity // 4) or not lane.in_flight:
            share = -(-len(self._pending) // lanes)
            items = [self._pending.popleft() for _ in range(min(room, share))]
            if items:
                yield items

    def abandon(self) -> None:
        """End the workers that have rows: their answers would be taken for those of the next run's rows."""
        for seat in self._session.seats:
            if self._lanes[seat.number].in_flight:
                self._session.lost(seat)
        self._lanes.clear()

    def seconds_to_next_retry(self) -> float | None:
        """How long nothing will happen here by itself; ``None`` if no retry waits that could be sent."""
        if not self._retries or not any(self._has_room(seat) for seat in self._session.ready_seats):
            return None
        return max(0.0, self._retries[0][0] - time.monotonic())

    def _has_room(self, seat: Seat) -> bool:
        lane = self._lanes[seat.number]
        assert seat.info is not None
        return not lane.suspects and lane.isolated not in lane.in_flight and len(lane.in_flight) < seat.info.window

    def handle(self, event: Event) -> pa.RecordBatch | None:
        """Take an event of one of the session's workers.

        Returns:
            Final outcomes: the outcome schema and ``attempts: int32``; or ``None``.

        Raises:
            MullamaError: the engine refused to start, is dead, or crashes without a row to blame.
        """
        if isinstance(event, Started):
            if (seat := self._session.seat_of(event.worker)) is not None:
                first = self._session.info is None
                self._session.loaded(seat, event.info)
                if first:
                    self._pending = deque(self._arranged(list(self._pending)))
        elif isinstance(event, Refused):
            raise event.error
        elif isinstance(event, Outcomes):
            return self._outcomes(event.batch)
        elif isinstance(event, Stuck):
            self._stuck.update(event.rows)
            self._shared.update(event.shared)
        elif isinstance(event, Exited) and (seat := self._session.seat_of(event.worker)) is not None:
            return self._exited(event, seat)
        return None

    def _outcomes(self, batch: pa.RecordBatch) -> pa.RecordBatch | None:
        rows = batch.column("row").to_pylist()
        lane = next(lane for lane in self._lanes.values() if rows[0] in lane.in_flight)
        items = [lane.in_flight.pop(row) for row in rows]
        lane.restarts = 0
        if self._problems:
            for row in rows:
                self._problems.pop(row, None)
        if batch.column("error_type").null_count < batch.num_rows:
            batch, items = self._without_retried(batch, items)
            if not items:
                return None
        else:
            self._first_errors = None
        if batch.column("error_type").null_count:
            self._crashes = self._hangs = self._unanswered = 0
        else:
            self._refuse_dead_server(batch)
        return _with_attempts(batch, [attempt for _, attempt, _ in items])

    def _without_retried(self, batch: pa.RecordBatch, items: list[Item]) -> tuple[pa.RecordBatch, list[Item]]:
        """Take out the rows that are asked again."""
        error_types = batch.column("error_type")
        retryable = pc.is_in(error_types, pa.array(ASKED_AGAIN)).to_numpy(zero_copy_only=False)
        self._refuse_dead_engine(batch, items)
        keep = np.ones(batch.num_rows, bool)
        for place in np.flatnonzero(retryable):
            row, attempt, text = items[place]
            if attempt <= self._max_retries:
                keep[place] = False
                if error_types[place].as_py() in INVALID_OUTPUT_TYPES:
                    self._problems[row] = batch.column("error")[place].as_py()
                self._retry_later((row, attempt + 1, text))
        kept = [item for item, stays in zip(items, keep, strict=True) if stays]
        return batch.filter(pa.array(keep)), kept

    def _retry_later(self, item: Item) -> None:
        backoff = min(RETRY_LONGEST_SECONDS, RETRY_FIRST_SECONDS * 2 ** (item[1] - 2))
        due = time.monotonic() + backoff * self._random.uniform(0.5, 1.5)
        heapq.heappush(self._retries, (due, item[0], item))

    def _refuse_dead_engine(self, batch: pa.RecordBatch, items: list[Item]) -> None:
        if self._first_errors is None:
            return
        for error_type, message, (_, attempt, _) in zip(
            batch.column("error_type").to_pylist(), batch.column("error").to_pylist(), items, strict=True
        ):
            if attempt > 1:
                continue  # a row that fails again says nothing of the other rows
            if error_type != ErrorType.ENGINE_ERROR.value or (self._first_errors and message != self._first_errors[0]):
                self._first_errors = None
                return
            self._first_errors.append(message)
            if len(self._first_errors) >= DEAD_ENGINE_ROWS:
                raise EngineFailedError(
                    f"The engine {self._session.engine!r} is not working: the first {len(self._first_errors)} rows all "
                    f"failed with: {message}; no further row was spent on it."
                )

    def _refuse_dead_server(self, batch: pa.RecordBatch) -> None:
        if set(batch.column("error_type").to_pylist()) - set(UNANSWERED_TYPES):
            self._unanswered = 0  # it refuses rows, so it is there
            return
        self._unanswered += batch.num_rows
        if self._unanswered >= UNANSWERED_IN_A_ROW:
            raise EngineFailedError(
                f"The server of the engine {self._session.engine!r} is not working: {self._unanswered} rows, one after "
                f"the other, had no answer in all their tries, the last with: {batch.column('error')[-1].as_py()}; no "
                "further row is spent on it."
            )

    def _exited(self, event: Exited, seat: Seat) -> pa.RecordBatch | None:
        was_loading = seat.info is None
        lane = self._lanes[seat.number]
        lost = list(lane.in_flight.values())
        lane.in_flight.clear()
        self._session.lost(seat)
        if any(item[0] in self._stuck or item[0] in self._shared for item in lost):
            return self._hung(lane, lost)
        lane.restarts += 1
        if lane.restarts >= RESTARTS_WITHOUT_PROGRESS or self._crashes >= CRASHES_IN_A_ROW:
            raise WorkerCrashError(_crash_report(self._session.engine, event, while_loading=was_loading))
        isolated, lane.isolated = lane.isolated, None
        # A row that merely was the only one when somebody killed the worker gets another chance, like any other.
        if len(lost) == 1 and lost[0][0] == isolated:
            lane.restarts = 0
            self._crashes += 1
            log.warning("row %d ends the worker: it %s", lost[0][0], event.how)
            message = f"the engine's process {event.how} on this row"
            return self._final_errors(lost, ErrorType.ENGINE_CRASH, message)
        log.warning("the worker %s with %d rows in flight; they are tried one by one", event.how, len(lost))
        lane.suspects.extend(lost)
        return None

    def _hung(self, lane: Lane, lost: list[Item]) -> pa.RecordBatch | None:
        """The worker left because of rows that would not end."""
        alone = [item for item in lost if item[0] in self._stuck]
        shared = [item for item in lost if item[0] in self._shared]
        if len(shared) == 1:
            alone, shared = [*alone, *shared], []
        guilty = {item[0] for item in (*alone, *shared)}
        self._pending.extendleft(item for item in reversed(lost) if item[0] not in guilty)
        lane.suspects.extend(shared)
        self._stuck -= guilty
        self._shared -= guilty
        log.warning("rows %s were beyond row_timeout; the worker is restarted", sorted(guilty))
        return self._timed_out(alone)

    def _timed_out(self, items: list[Item]) -> pa.RecordBatch | None:
        final = []
        for row, attempt, text in items:
            if attempt <= self._max_retries:
                self._retry_later((row, attempt + 1, text))
            else:
                final.append((row, attempt, text))
        self._hangs += len(final)
        if self._hangs >= HANGS_IN_A_ROW:
            raise EngineFailedError(
                f"The engine {self._session.engine!r} hangs: {self._hangs} rows, one after the other, were not "
                "finished within row_timeout and none was in between; no further row is spent on it."
            )
        return self._final_errors(final, ErrorType.TIMEOUT, "the engine did not finish within row_timeout")

    def _final_errors(self, items: list[Item], error_type: ErrorType, message: str) -> pa.RecordBatch | None:
        if not items:
            return None
        return error_batch(
            self._task, [item[0] for item in items], error_type, [message] * len(items), [item[1] for item in items]
        )


def error_batch(
    task: str, rows: list[int], error_type: ErrorType, messages: list[str], attempts: list[int]
) -> pa.RecordBatch:
    """Final outcomes of rows without a result; columns that such a row leaves null may be absent."""
    return pa.RecordBatch.from_arrays(
        [
            pa.array(rows, pa.int64()),
            pa.array([error_type.value] * len(rows), pa.string()),
            pa.array(messages, pa.string()),
            pa.array(attempts, pa.int32()),
        ],
        names=["row", "error_type", "error", "attempts"],
    )


def _with_attempts(batch: pa.RecordBatch, attempts: list[int]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [*batch.columns, pa.array(attempts, pa.int32())], names=[*batch.schema.names, "attempts"]
    )


def _crash_report(engine: str, event: Exited, *, while_loading: bool) -> str:
    when = "while it loaded the model" if while_loading else "again and again, and no single row explains it"
    last = "\n  ".join(event.stderr[-15:]) or "(nothing)"
    return f"The worker of the engine {engine!r} {event.how} {when}. Its last words:\n  {last}"
