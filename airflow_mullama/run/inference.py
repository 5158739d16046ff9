"""The loop that gets an outcome for every row of a partition and makes it durable.

It runs on the thread that may be stopped, so it only moves things: requests are read and rendered on one thread,
outcomes made durable on another and written to the output on a third, and the engine computes in the worker process.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.engines.base import EngineInfo
from airflow_mullama.errors import EndpointUnavailableError, JobStoppedError, StorageUnavailableError
from airflow_mullama.fail_points import reached
from airflow_mullama.jobs.job import Job
from airflow_mullama.jobs.prompts import RequestTemplate
from airflow_mullama.progress import Progress
from airflow_mullama.row_counts import count_rows
from airflow_mullama.rows import ErrorType, ResultColumns, RowError
from airflow_mullama.run.budget import Budget
from airflow_mullama.run.chunk_collector import ChunkCollector
from airflow_mullama.run.duplicates import Duplicates
from airflow_mullama.run.durable_chunks import DurableChunks
from airflow_mullama.run.final_outcomes import error_batch
from airflow_mullama.run.other_attempts import OtherAttempts
from airflow_mullama.run.outcome_rows import chunk_schema, contract_batch
from airflow_mullama.run.request_reader import InputEnded, Piece, RequestReader, ThreadFailed
from airflow_mullama.run.request_window import RequestWindow
from airflow_mullama.storage.partition_input import PartitionInput
from airflow_mullama.storage.staging.stage import ChunkPlan, Stage
from airflow_mullama.worker.client import Outcomes, Started
from airflow_mullama.worker.session import EngineSession

log = logging.getLogger(__name__)

# How long the loop sleeps at most: the longest it takes to see that it should stop.
POLL_SECONDS = 0.25
SAMPLE_MESSAGES = 3
# How long the input may give nothing while the engine has nothing else to do.
INPUT_SECONDS = 3600.0


class WaitedForGpuError(Exception):
    """Time has passed in which another attempt may have done this one's work: look again before going on."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"a GPU was waited for during {seconds:.0f} s")
        self.seconds = seconds


class Inference:
    """One pass over a partition's rows.

    Args:
        job: what to do.
        template: renders a row's request.
        model_name: for people.
        source: the rows.
        chunks: of the partition.
        stage: where outcomes become durable; what it holds already is not asked again.
        durable: told of every chunk that is durable and whole.
        budget: what may be spent, here and on other partitions.
        others: attempts of the same partition at the same time.
        columns: the added columns.
        session: the engine, started when a row first needs it.
        progress: counts the rows and tells who listens.
        raise_if_stopped: raises if the job should end, or the output cannot be written.

    Attributes:
        info: of the engine, if it was needed.
        seconds: by what the engine did meanwhile: ``model_load``, ``waiting_for_input``, ``engine``; and ``writing``.
        staged_rows: rows that the stage held already.
        samples: a few errors with a row that has each.
    """

    def __init__(
        self,
        *,
        job: Job,
        template: RequestTemplate,
        model_name: str,
        source: PartitionInput,
        chunks: ChunkPlan,
        stage: Stage,
        durable: DurableChunks,
        budget: Budget,
        others: OtherAttempts,
        columns: ResultColumns,
        session: EngineSession,
        progress: Progress,
        raise_if_stopped: Callable[[], None],
    ) -> None:
        self._job = job
        self._budget = budget
        self._model_name = model_name
        self._session = session
        self._progress = progress
        self._raise_if_stopped = raise_if_stopped
        self._schema = chunk_schema(columns)
        self._names_of_contract = columns.names_of_contract
        events = session.begin_run()
        self._collector = ChunkCollector(
            stage,
            self._schema,
            chunk_rows=job.chunk_rows,
            chunk_seconds=job.chunk_seconds,
            events=events,
            durable=durable,
            others=others,
            raise_if_stopped=raise_if_stopped,
        )
        self._reader = RequestReader(source, template, chunks, stage, events)
        self._stage = stage
        self._window = RequestWindow(session, job.max_retries, stage.suspects())
        self._duplicates = Duplicates(rows_behind=max(1000, 2 * job.chunk_rows))
        self._accounted, self._doing = time.monotonic(), "waiting_for_input"
        self._heard_of_input, self._source = self._accounted, source
        self.info: EngineInfo | None = None
        self.seconds = dict.fromkeys(("model_load", "waiting_for_input", "engine", "writing"), 0.0)
        self.staged_rows = 0
        self.samples: dict[tuple[str, str], int] = {}

    def run(self) -> None:
        """Do it.

        Raises:
            WaitedForGpuError: nothing was asked yet.
            MullamaError: what ended it. Rows that were paid for are durable, or the message says that they are not.
        """
        if self._session.info is not None:  # loaded for an earlier partition
            self.info = self._session.info
            self._progress.engine_ready()
        self._reader.start()
        try:
            self._loop()
            before = time.monotonic()
            self._collector.finish()
            self.seconds["writing"] += time.monotonic() - before
        except BaseException as error:
            self._reader.stop(wait=False)
            failure = self._collector.rescue()
            self._reader.stop()
            # Only of a server that went away: an engine of our own that ends again and again is dead.
            if isinstance(error, EndpointUnavailableError) and (suspects := self._window.suspects):
                self._stage.remember_suspects(suspects)
            self._window.abandon()
            if failure is not None and isinstance(error, JobStoppedError):
                raise JobStoppedError(f"{error} The rows of the open chunks could not be kept: {failure}") from error
            if failure is not None and failure is not error:
                log.warning("the rows of the open chunks could not be kept: %s", failure)
            raise
        self._reader.stop()

    def _loop(self) -> None:
        waiting: list[Piece] = []
        taken = 0
        reading = True
        self._accounted = self._heard_of_input = time.monotonic()
        while reading or waiting or not self._window.idle:
            self._raise_if_stopped()
            if (spent := self._budget.is_spent) and not self._window.busy and not self._window.idle:
                raise self._budget.error(self._progress.done, self._source.rows, self._progress.partition)
            while waiting and self._wants_rows:
                self._take(waiting.pop(0))
                taken += 1
            # One heavy row in the window, and the next one is not even read.
            while taken and self._window.has_room:
                self._reader.taken()
                taken -= 1
            waited = self._session.waited_seconds
            nothing_to_offer = not (reading or waiting) or not self._duplicates.has_room
            if not spent and self._window.send(all_offered=nothing_to_offer):
                if self._session.waited_seconds > waited:
                    raise WaitedForGpuError(self._session.waited_seconds - waited)
                self._progress.announce(f"loading {self._model_name} into the engine {self._session.engine}")
            self._account_for_time()
            event = self._next_event(has_work=bool(waiting) and self._wants_rows)
            self._refuse_silent_input(waits=event is None and reading and not waiting)
            if isinstance(event, Piece):
                waiting.append(event)
            elif isinstance(event, InputEnded):
                reading = False
            elif isinstance(event, ThreadFailed):
                raise event.error
            elif event is not None:
                self._engine_event(event)
            self._collector.keep_due()
            self._account_for_time()
            self._progress.tell_if_due()

    def _refuse_silent_input(self, *, waits: bool) -> None:
        if not waits or self._window.busy or self._session.loading:
            self._heard_of_input = time.monotonic()
        elif time.monotonic() - self._heard_of_input > INPUT_SECONDS:
            raise StorageUnavailableError(
                f"The input {self._progress.partition!r} gave no row for {INPUT_SECONDS:g} s: its store does "
                "not answer. What is finished is kept."
            )

    @property
    def _wants_rows(self) -> bool:
        return self._window.wants_rows and self._duplicates.has_room

    def _next_event(self, *, has_work: bool) -> Any:
        timeout = POLL_SECONDS
        if has_work:
            timeout = 0.0
        elif (retry_in := self._window.seconds_to_next_retry()) is not None:
            timeout = min(timeout, max(0.001, retry_in))
        reached("wait")
        events = self._session.events
        try:
            return events.get(timeout=timeout) if timeout else events.get_nowait()
        except queue.Empty:
            return None

    def _engine_event(self, event: Any) -> None:
        if isinstance(event, Outcomes):
            self._budget.add_outcomes(event.batch)  # also of answers that are asked for again
        outcomes = self._window.handle(event)
        if isinstance(event, Started):
            self._engine_started(event)
        if outcomes is not None:
            reached("result")
            batch = self._record(outcomes, computed=True)
            self._record_copies(self._duplicates.settle(batch))

    def _account_for_time(self) -> None:
        """Add the time since the last call to what the engine did meanwhile: compute, load, or wait for rows."""
        now = time.monotonic()
        self.seconds[self._doing] += now - self._accounted
        if self._doing == "engine":
            self._budget.seconds += now - self._accounted
        self._accounted = now
        if self._window.busy:
            self._doing = "engine"
        else:
            loading = self._session.loading
            self._doing = "model_load" if loading else "waiting_for_input"

    def _take(self, piece: Piece) -> None:
        self._collector.begin(piece.chunk, piece.staged, is_whole=piece.is_whole)
        if piece.staged is not None and piece.staged.num_rows:
            self._progress.add(count_rows(piece.staged.select(self._names_of_contract)))
            self.staged_rows += piece.staged.num_rows
            self._sample(piece.staged)
        for error_type in {error.error_type for _, error in piece.errors}:
            same = [(row, error) for row, error in piece.errors if error.error_type is error_type]
            self._record(_without_request(error_type, same), computed=False)
        rows, texts, copies = self._duplicates.sift(piece.rows, piece.texts)
        self._record_copies(copies)
        self._window.offer(rows, texts)

    def _record(self, outcomes: pa.RecordBatch, *, computed: bool) -> pa.RecordBatch:
        batch = contract_batch(outcomes, self._schema, self._job.schema)
        self._collector.add(batch)
        counts = count_rows(batch.select(self._names_of_contract), outcomes, computed=computed)
        self._progress.add(counts)
        self._sample(batch)
        return batch

    def _record_copies(self, copies: Sequence[pa.RecordBatch]) -> None:
        for batch in copies:
            self._collector.add(batch)
            self._progress.add(count_rows(batch.select(self._names_of_contract), deduplicated=True))

    def _sample(self, rows: pa.RecordBatch | pa.Table) -> None:
        error_type = rows.column("error_type")
        if len(self.samples) >= SAMPLE_MESSAGES or error_type.null_count == rows.num_rows:
            return
        failed = rows.filter(
            pc.and_kleene(pc.is_valid(error_type), pc.not_equal(error_type, ErrorType.NULL_INPUT.value))
        )
        for row, code, message in zip(
            failed.column("row").to_pylist(),
            failed.column("error_type").to_pylist(),
            failed.column("error").to_pylist(),
            strict=True,
        ):
            if len(self.samples) >= SAMPLE_MESSAGES:
                return
            self.samples.setdefault((code, message), row)

    def _engine_started(self, event: Started) -> None:
        info, seat = event.info, self._session.seat_of(event.worker)
        if seat is None:
            return
        if self.info is None:
            for note in info.notes:
                log.warning("%s", note)
        self.info = info
        self._progress.engine_ready()
        context = f", n_ctx {info.n_ctx}" if info.n_ctx else ""
        devices = f" on {', '.join(info.devices)}" if info.devices else ""
        self._progress.announce(
            f"engine {info.engine} {info.version} is ready after {seat.load_seconds:.1f} s{devices}: "
            f"{info.settings or f'n_parallel {info.n_parallel}{context}'}{', chat template' if info.chat else ''}"
            f"{f'; {info.trial}' if info.trial else ''}"
        )


def _without_request(error_type: ErrorType, rows: list[tuple[int, RowError]]) -> pa.RecordBatch:
    """Outcomes of rows that the engine is never asked for: no attempt was made."""
    return error_batch([row for row, _ in rows], error_type, [error.message for _, error in rows], [0] * len(rows))
