"""The window of rows in flight: refilled continuously, retried row by row, proof against a worker that dies.

Rows are offered in order and come back in any order, each exactly once. When the worker dies, the rows in flight are
asked again one at a time until the row that kills it is known: a row that ends its worker twice gets ``engine_crash``,
the others their results. Before that is said of a row, the engine must answer something else, so that rows are never
blamed for an engine that is dead. Several workers share the window; what happens to one does not concern the
others' rows. Rows that an earlier attempt's engine died with are asked when all others are done, one by one too.
"""

from __future__ import annotations

import heapq
import logging
import random
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.byte_bounds import WINDOW_BYTES
from airflow_mullama.engines.base import ROWS_PER_WORKER
from airflow_mullama.errors import WorkerCrashError
from airflow_mullama.fail_points import reached
from airflow_mullama.jobs.prompts import beginning_of
from airflow_mullama.rows import INVALID_OUTPUT_TYPES, RETRYABLE_ERROR_TYPES, ErrorType
from airflow_mullama.run.dead_engine import DeadEngineWatch
from airflow_mullama.run.final_outcomes import error_batch, joined, refused, with_attempts
from airflow_mullama.run.lanes import HeldBytes, Item, Lane
from airflow_mullama.run.prefix_order import side_by_side
from airflow_mullama.run.repeated_errors import RepeatedErrors
from airflow_mullama.run.request_batches import batch_of
from airflow_mullama.worker.client import Event, Exited, Outcomes, Refused, Started, Stuck
from airflow_mullama.worker.session import EngineSession, Seat

log = logging.getLogger(__name__)

RETRY_FIRST_SECONDS = 0.2
RETRY_LONGEST_SECONDS = 30.0
RESTARTS_WITHOUT_PROGRESS = 3
# Rows that each end their worker, one after the other, until the engine is asked for something that no row holds.
MOST_ACCUSED = 3
# Among others first, then alone.
DEATHS_OF_THE_GUILTY = 2
TRIAL_ROW, TRIAL_TEXT = -1, "Hello."

# An answer that breaks the schema is asked again only within a run, where the next try is a different one: another run
# would ask the same and get the same.
ASKED_AGAIN = (*RETRYABLE_ERROR_TYPES, *INVALID_OUTPUT_TYPES)

CAPACITY_UNTIL_LOADED = 64


class RequestWindow:
    """Keeps the engine busy with one partition's rows.

    Args:
        session: the engine.
        max_retries: further tries of a row whose error is retryable.
        suspects: rows that the engine had when it died in an earlier attempt, and how often.
    """

    def __init__(self, session: EngineSession, max_retries: int, suspects: Mapping[int, int] | None = None) -> None:
        self._session = session
        self._max_retries = max_retries
        self._pending: deque[Item] = deque()
        self._retries: list[tuple[float, int, Item]] = []
        self._lanes: defaultdict[int, Lane] = defaultdict(Lane)
        self._problems: dict[int, str] = {}
        self._suspected = dict(suspects or {})
        self._held_back: deque[Item] = deque()
        self._held = HeldBytes()
        self._repeated = RepeatedErrors()
        self._stuck: set[int] = set()
        self._shared: set[int] = set()
        self._dead_engine = DeadEngineWatch(session.engine)
        self._random = random.Random(0)

    @property
    def idle(self) -> bool:
        """No row is known here that has no outcome yet."""
        accused = any(lane.accused for lane in self._lanes.values())
        return not (self._waiting or self._held_back or self.busy or accused)

    @property
    def busy(self) -> bool:
        """The engine has rows."""
        return any(lane.in_flight for lane in self._lanes.values())

    @property
    def rows_in_flight(self) -> list[int]:
        """The rows that the engine has."""
        return [row for lane in self._lanes.values() for row in lane.in_flight]

    @property
    def suspects(self) -> dict[int, int]:
        """Rows that the engine had when it died, here or in an earlier attempt, and how often; empty if it did not.

        Those of an earlier attempt stay until they are answered, also where this one has not come to them.
        """
        lanes = self._lanes.values()
        waiting = [item[0] for lane in lanes for item in lane.suspects]
        accused = dict.fromkeys((item[0] for lane in lanes for item, _ in lane.accused), DEATHS_OF_THE_GUILTY)
        return {**dict.fromkeys(waiting, 1), **self._suspected, **accused}

    @property
    def wants_rows(self) -> bool:
        """Whether more rows should be offered, so that the engine will not run dry."""
        capacity = sum(seat.info.window for seat in self._session.seats if seat.info) or CAPACITY_UNTIL_LOADED
        return self._waiting < 2 * capacity and self.has_room

    @property
    def has_room(self) -> bool:
        """Whether its requests weigh less than they may."""
        return self._held.total < WINDOW_BYTES

    @property
    def _waiting(self) -> int:
        return len(self._pending) + len(self._retries) + sum(len(lane.suspects) for lane in self._lanes.values())

    def offer(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Queue requests; they are sent by :meth:`send`."""
        items = list(zip(rows, [1] * len(rows), texts, strict=True))
        if self._suspected:
            items = self._without_suspects(items)
        self._held.add(items)
        self._pending.extend(self._arranged(items))

    def _without_suspects(self, items: list[Item]) -> list[Item]:
        for item in items:
            deaths = self._suspected.get(item[0], 0)
            if deaths >= DEATHS_OF_THE_GUILTY:
                message = f"the engine went away {deaths} times on this row, in an earlier attempt"
                self._lanes[0].accused.append((item, message))
            elif deaths:
                self._held_back.append(item)
        return [item for item in items if item[0] not in self._suspected]

    def _arranged(self, items: list[Item]) -> list[Item]:
        if self._session.task == "embed":
            return items  # no engine keeps the beginning of a text that it embeds
        info = self._session.info
        if info is None:
            return items  # again when it is known how many run at once
        order = side_by_side([beginning_of(text) for _, _, text in items], info.n_parallel)
        return items if order is None else [items[position] for position in order]

    def send(self, *, all_offered: bool = False) -> bool:
        """Fill the window, or start workers that are missing.

        Args:
            all_offered: no row can be offered before some that are here have their outcome.

        Returns:
            Whether a worker was started now.
        """
        if all_offered and self._held_back and not (self._waiting or self.busy):
            self._lanes[0].suspects.extend(self._held_back)
            self._held_back.clear()
        waiting = self._waiting
        suspicious = {number for number, lane in self._lanes.items() if lane.suspects or lane.accused}
        if not (waiting or suspicious):
            return False
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
        lane.in_flight.update({item[0]: item for item in items})
        assert seat.worker is not None
        seat.worker.send(batch_of(items, self._problems))

    def _next_items(self, lane: Lane, capacity: int, lanes: int) -> Iterator[list[Item]]:
        if lane.isolated in lane.in_flight:
            return  # alone means alone, the last suspect too
        if lane.accused and not lane.in_flight:
            nothing_else = not (lane.suspects or self._pending)
            if nothing_else or len(lane.accused) >= MOST_ACCUSED:
                lane.isolated = TRIAL_ROW
                yield [(TRIAL_ROW, 1, TRIAL_TEXT)]
                return
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
        items = list(map(lane.in_flight.pop, rows))
        lane.restarts, lane.isolated = 0, None
        if rows == [TRIAL_ROW]:
            return self._found_guilty(lane)
        guilty = self._found_guilty(lane) if lane.accused and batch.column("error_type").null_count else None
        return joined(self._answered(batch, items), guilty)

    def _answered(self, batch: pa.RecordBatch, items: list[Item]) -> pa.RecordBatch | None:
        """Final outcomes of those that the worker brought."""
        self._forget_suspects(items)
        self._repeated.answered(batch)
        if self._problems:
            for row, _, _ in items:
                self._problems.pop(row, None)
        attempts = [attempt for _, attempt, _ in items]
        self._dead_engine.tried(batch, attempts)
        if batch.column("error_type").null_count < batch.num_rows:
            batch, items = self._without_retried(batch, items)
            if not items:
                return None
            attempts = [attempt for _, attempt, _ in items]
        self._held.drop(items)
        self._dead_engine.ended(batch)
        return with_attempts(batch, attempts)

    def _forget_suspects(self, items: list[Item]) -> None:
        """These were answered, or have their error."""
        if self._suspected:
            for row, _, _ in items:
                self._suspected.pop(row, None)

    def _without_retried(self, batch: pa.RecordBatch, items: list[Item]) -> tuple[pa.RecordBatch, list[Item]]:
        """Take out the rows that are asked again."""
        error_types = batch.column("error_type")
        retryable = pc.is_in(error_types, pa.array(ASKED_AGAIN)).to_numpy(zero_copy_only=False)
        keep = np.ones(batch.num_rows, bool)
        own: list[int] = []
        for place in np.flatnonzero(retryable):
            row, attempt, text = items[place]
            error_type, message = error_types[place].as_py(), batch.column("error")[place].as_py()
            if attempt <= self._max_retries:
                keep[place] = False
                if error_type in INVALID_OUTPUT_TYPES:
                    self._problems[row] = message
                self._repeated.failed(row, error_type, message)
                self._retry_later((row, attempt + 1, text))
            elif self._repeated.is_the_rows_own(row, error_type, message):
                own.append(int(place))
        batch = refused(batch, own)
        kept = [item for item, stays in zip(items, keep, strict=True) if stays]
        return batch.filter(pa.array(keep)), kept

    def _retry_later(self, item: Item) -> None:
        backoff = min(RETRY_LONGEST_SECONDS, RETRY_FIRST_SECONDS * 2 ** (item[1] - 2))
        due = time.monotonic() + backoff * self._random.uniform(0.5, 1.5)
        heapq.heappush(self._retries, (due, item[0], item))

    def _exited(self, event: Exited, seat: Seat) -> pa.RecordBatch | None:
        was_loading = seat.info is None
        lane = self._lanes[seat.number]
        lost = list(lane.in_flight.values())
        lane.in_flight.clear()
        self._session.lost(seat)
        if any(item[0] in self._stuck or item[0] in self._shared for item in lost):
            return self._hung(lane, lost)
        lane.restarts += 1
        isolated, lane.isolated = lane.isolated, None
        on_trial = any(item[0] == TRIAL_ROW for item in lost)
        if on_trial or lane.restarts >= RESTARTS_WITHOUT_PROGRESS:
            raise WorkerCrashError(_crash_report(self._session.engine, event, while_loading=was_loading))
        # A row that merely was the only one when somebody killed the worker gets another chance, like any other.
        if len(lost) == 1 and lost[0][0] == isolated:
            lane.restarts = 0
            log.warning("row %d ends the worker: it %s", lost[0][0], event.how)
            lane.accused.append((lost[0], f"the engine's process {event.how} on this row"))
            return None
        log.warning("the worker %s with %d rows in flight; they are tried one by one", event.how, len(lost))
        lane.suspects.extend(lost)
        return None

    def _found_guilty(self, lane: Lane) -> pa.RecordBatch | None:
        """Final outcomes of the accused rows of a lane whose engine has answered."""
        items = [item for item, _ in lane.accused]
        messages = [message for _, message in lane.accused]
        lane.accused = []
        return self._final_errors(items, ErrorType.ENGINE_CRASH, messages)

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
        self._dead_engine.hung(len(final))
        message = "the engine did not finish in time (row_timeout; without one, after more than an hour)"
        return self._final_errors(final, ErrorType.TIMEOUT, [message] * len(final))

    def _final_errors(self, items: list[Item], error_type: ErrorType, messages: list[str]) -> pa.RecordBatch | None:
        if not items:
            return None
        self._forget_suspects(items)
        self._held.drop(items)
        return error_batch([item[0] for item in items], error_type, messages, [item[1] for item in items])


def _crash_report(engine: str, event: Exited, *, while_loading: bool) -> str:
    when = "while it loaded the model" if while_loading else "again and again, and no single row explains it"
    last = " | ".join(event.stderr[-15:]) or "(nothing)"
    return f"The worker of the engine {engine!r} {event.how} {when}. Its last words: {last}"
