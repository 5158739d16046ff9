"""The run of one partition, from its checks to its published output."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.chunk_writer import ChunkCollector, chunk_schema, contract_batch, count_outcomes
from airflow_mullama.errors import (
    AccountingError,
    InputChangedError,
    JobStoppedError,
    OutputExistsError,
    StageVanishedError,
)
from airflow_mullama.jobs import Job
from airflow_mullama.manifest import PartitionManifest, Seconds, utc_now
from airflow_mullama.models.resolve import Model
from airflow_mullama.progress import Progress, ProgressListener
from airflow_mullama.request_reader import InputEnded, Piece, RequestReader, ThreadFailed
from airflow_mullama.rows import ErrorType, RowError, refuse_column_clash
from airflow_mullama.seeding import stage_good_rows, stage_reused_rows
from airflow_mullama.steps import reached
from airflow_mullama.storage.parquet_input import open_input
from airflow_mullama.storage.parquet_output import (
    PublishedOutput,
    output_exists,
    read_published,
    refuse_directory,
    write_output,
)
from airflow_mullama.storage.partitions import Partition
from airflow_mullama.storage.stage import Stage, plan_chunks
from airflow_mullama.window import RequestWindow, error_batch
from airflow_mullama.worker.client import Started
from airflow_mullama.worker.session import EngineSession

log = logging.getLogger(__name__)

# How long the loop sleeps at most: the longest it takes to see that it should stop.
POLL_SECONDS = 0.25
SAMPLE_MESSAGES = 3
PUBLISH_TRIES = 3


class PartitionRun:
    """One partition's work. Constructing it checks everything that can be checked without spending work.

    Args:
        job: what to do.
        partition: where.
        model: with what.
        listeners: who is told of progress.
        should_stop: whether to end soon.

    Raises:
        MullamaError: the input, its columns, the model or the output are not what the job needs.
    """

    def __init__(
        self,
        job: Job,
        partition: Partition,
        model: Model,
        listeners: Sequence[ProgressListener],
        should_stop: Callable[[], bool],
    ) -> None:
        self._job = job
        self._partition = partition
        self._model = model
        self._should_stop = should_stop
        self._source = open_input(partition.files)
        job.template.require_columns(self._source.schema.names)
        refuse_column_clash(self._source.schema.names, job.added_column_names, job.output_prefix)
        dimensions = job.engine_spec.vector_length(job.engine_options, model.header)
        self._columns = job.result_columns(dimensions)
        self._request_fingerprint = job.request_fingerprint(model_sha256=model.sha256)
        self._fingerprint = job.fingerprint(input_identity=self._source.identity, model_sha256=model.sha256)
        self._published = self._look_at_output()
        self._progress = Progress(self._source.rows, partition.input.url, listeners)
        self._chunks = plan_chunks(self._source.rows, job.chunk_rows)
        self._stage = Stage(partition.output, self._fingerprint, chunk_schema(self._columns))
        self._seconds = dict.fromkeys(("model_load", "waiting_for_input", "engine", "writing"), 0.0)
        self._samples: dict[tuple[str, str], int] = {}
        self._engine_version: str | None = None
        self._constrained: bool | None = None
        self._resumed = 0
        self._kept = self._reused = self._repaired = 0

    def _look_at_output(self) -> PublishedOutput | None:
        output, if_exists = self._partition.output, self._job.if_exists
        refuse_directory(output)
        if not output_exists(output) or if_exists == "overwrite":
            return None
        if if_exists == "error":
            raise OutputExistsError(
                f"The output {output.url!r} exists and if_exists='error'; remove it, or set if_exists to 'resume' or "
                "'overwrite'."
            )
        published = read_published(output)
        if published is None:
            raise OutputExistsError(
                f"The output {output.url!r} exists and was not written by this package; give another output_path, or "
                "set if_exists='overwrite' to replace it."
            )
        return published

    def run(self, session: EngineSession) -> PartitionManifest:
        """Do the work and publish the output.

        Args:
            session: the engine, started when a row first needs it.

        Raises:
            MullamaError: nothing is published; finished rows stay staged for the next attempt.
        """
        self._started_at, self._started = utc_now(), time.monotonic()
        published = self._published
        if published is not None and self._is_up_to_date(published):
            self._progress.announce(
                f"{self._partition.output} is up to date ({published.manifest.rows} rows): nothing to do"
            )
            self._stage.remove()  # of an attempt that ended right after it published
            return published.manifest.as_up_to_date()
        self._stage.open()
        if staged := self._stage.staged():
            self._progress.announce(
                f"resuming {self._partition.input}: {len(staged)} of {len(self._chunks)} chunks hold rows of an "
                "earlier attempt"
            )
        if published is not None:
            self._seed(published)
        for _ in range(PUBLISH_TRIES - 1):
            try:
                return self._infer_and_publish(session)
            except StageVanishedError as error:
                other = read_published(self._partition.output)
                if other is not None and self._is_up_to_date(other):
                    self._progress.announce(f"{self._partition.output} was published by another attempt meanwhile")
                    self._stage.remove()
                    return other.manifest
                log.warning("%s What is missing is computed again.", error)
        return self._infer_and_publish(session)

    def _is_up_to_date(self, published: PublishedOutput) -> bool:
        return published.manifest.fingerprint == self._fingerprint and published.manifest.retryable_rows == 0

    def _infer_and_publish(self, session: EngineSession) -> PartitionManifest:
        self._progress.restart()
        self._resumed = 0
        self._infer(session)
        manifest = self._publish()
        reached("published")
        self._stage.remove()
        self._report_samples()
        return manifest

    def _seed(self, published: PublishedOutput) -> None:
        """Stage what the published output already knows."""
        manifest, output, prefix = published.manifest, self._partition.output, self._job.output_prefix
        if manifest.fingerprint == self._fingerprint:
            self._repaired = manifest.retryable_rows
            self._progress.announce(f"{output}: {self._repaired} of {manifest.rows} rows failed and are tried again")
            self._kept = stage_good_rows(self._stage, self._chunks, published, self._columns, prefix)
        elif manifest.request_fingerprint == self._request_fingerprint:
            self._reused = stage_reused_rows(
                self._stage, self._chunks, published, self._source, self._job.template, self._columns, prefix
            )
            self._progress.announce(
                f"{output}: the input changed; {self._reused} of {self._source.rows} rows have the same request as "
                "before and keep their outcome"
            )

    def _infer(self, session: EngineSession) -> None:
        """Get an outcome for every row and make it durable."""
        if not self._chunks:
            return
        events = session.begin_run()
        collector = ChunkCollector(self._stage, chunk_schema(self._columns), self._job.chunk_rows, events)
        reader = RequestReader(self._source, self._job.template, self._chunks, self._stage, events)
        window = RequestWindow(session, self._job.task, self._job.max_retries)
        if session.info is not None:  # loaded for an earlier partition
            self._engine_version, self._constrained = session.info.version, session.info.constrained
            self._progress.engine_ready()
        reader.start()
        try:
            self._loop(session, collector, reader, window)
            reader.stop()
            self._timed("writing", collector.finish)
        except BaseException:
            reader.stop()
            self._rescue(collector)
            raise
        self._progress.finish()

    def _loop(
        self, session: EngineSession, collector: ChunkCollector, reader: RequestReader, window: RequestWindow
    ) -> None:
        waiting: list[Piece] = []
        reading = True
        self._accounted, self._doing = time.monotonic(), "waiting_for_input"
        while reading or waiting or not window.idle:
            self._raise_if_stopped()
            while waiting and window.wants_rows:
                self._take(waiting.pop(0), collector, window)
                reader.taken()
            if window.send():
                self._announce_load(session)
            self._account_for_time(session, window)
            event = self._next_event(session, window, has_work=bool(waiting) and window.wants_rows)
            if event is None:
                pass
            elif isinstance(event, Piece):
                waiting.append(event)
            elif isinstance(event, InputEnded):
                reading = False
            elif isinstance(event, ThreadFailed):
                raise event.error
            else:
                outcomes = window.handle(event)
                if isinstance(event, Started):
                    self._engine_started(session)
                if outcomes is not None:
                    reached("result")
                    self._record(outcomes, collector, computed=True)
            self._account_for_time(session, window)
            self._progress.tell_if_due()

    def _next_event(self, session: EngineSession, window: RequestWindow, *, has_work: bool) -> Any:
        timeout = POLL_SECONDS
        if has_work:
            timeout = 0.0
        elif (retry_in := window.seconds_to_next_retry()) is not None:
            timeout = min(timeout, max(0.001, retry_in))
        reached("wait")
        try:
            return session.events.get(timeout=timeout) if timeout else session.events.get_nowait()
        except queue.Empty:
            return None

    def _account_for_time(self, session: EngineSession, window: RequestWindow) -> None:
        """Add the time since the last call to what the engine did meanwhile: compute, load, or wait for rows."""
        now = time.monotonic()
        self._seconds[self._doing] += now - self._accounted
        self._accounted = now
        if window.busy:
            self._doing = "engine"
        else:
            self._doing = "model_load" if session.worker is not None and not session.ready else "waiting_for_input"

    def _take(self, piece: Piece, collector: ChunkCollector, window: RequestWindow) -> None:
        collector.begin(piece.chunk, piece.staged)
        if piece.staged is not None and piece.staged.num_rows:
            self._progress.count(**vars(count_outcomes(piece.staged)), computed=False)
            self._resumed += piece.staged.num_rows
        for error_type in {error.error_type for _, error in piece.errors}:
            same = [(row, error) for row, error in piece.errors if error.error_type is error_type]
            self._record(_without_request(self._job.task, error_type, same), collector, computed=False)
        window.offer(piece.rows, piece.texts)

    def _record(self, outcomes: pa.RecordBatch, collector: ChunkCollector, *, computed: bool) -> None:
        batch = contract_batch(outcomes, collector.schema, self._job.schema)
        collector.add(batch)
        self._progress.count(**vars(count_outcomes(batch)), computed=computed)
        if batch.column("error_type").null_count < batch.num_rows:
            self._sample(batch)

    def _sample(self, batch: pa.RecordBatch) -> None:
        failed = batch.filter(pc.is_valid(batch.column("error_type")))
        for row, error_type, message in zip(
            failed.column("row").to_pylist(),
            failed.column("error_type").to_pylist(),
            failed.column("error").to_pylist(),
            strict=True,
        ):
            if len(self._samples) >= SAMPLE_MESSAGES:
                return
            if error_type != ErrorType.NULL_INPUT.value:
                self._samples.setdefault((error_type, message), row)

    def _report_samples(self) -> None:
        for (error_type, message), row in self._samples.items():
            log.warning("row %d of %s: %s: %s", row, self._partition.input, error_type, message)

    def _announce_load(self, session: EngineSession) -> None:
        self._progress.announce(f"loading {self._model.name} into the engine {session.engine}")

    def _engine_started(self, session: EngineSession) -> None:
        info = session.info
        assert info is not None
        self._engine_version, self._constrained = info.version, info.constrained
        self._progress.engine_ready()
        for note in info.notes:
            log.warning("%s", note)
        context = f", n_ctx {info.n_ctx}" if info.n_ctx else ""
        devices = f" on {', '.join(info.devices)}" if info.devices else ""
        self._progress.announce(
            f"engine {info.engine} {info.version} is ready after {session.load_seconds:.1f} s{devices}: n_parallel "
            f"{info.n_parallel}{context}{', chat template' if info.chat else ''}"
        )

    def _raise_if_stopped(self) -> None:
        if self._should_stop():
            raise JobStoppedError(
                f"Stopped at {self._progress.done} of {self._source.rows} rows of {self._partition.input}; they are "
                f"kept in {self._partition.output.parent}/_mullama_stage and the next attempt goes on from there."
            )

    def _rescue(self, collector: ChunkCollector) -> None:
        # Whatever ends the run, rows that were paid for are kept; the first error is the one to show.
        with contextlib.suppress(Exception):
            collector.rescue()

    def _timed(self, kind: str, action: Callable[[], None]) -> None:
        before = time.monotonic()
        action()
        self._seconds[kind] += time.monotonic() - before

    def _publish(self) -> PartitionManifest:
        """Write and publish the output on a thread, so that this one can be stopped meanwhile."""
        self._progress.announce(f"publishing {self._partition.output}")
        before = time.monotonic()
        result: queue.SimpleQueue[int | BaseException] = queue.SimpleQueue()
        abandoned = threading.Event()

        def check_stopped() -> None:
            if abandoned.is_set():
                raise JobStoppedError("stopped while the output was written")

        def work() -> None:
            try:
                reached("commit")
                self._refuse_changed_input()
                result.put(
                    write_output(
                        source=self._source,
                        chunks=self._stage.read_all(self._chunks),
                        columns=self._columns,
                        output_prefix=self._job.output_prefix,
                        target=self._partition.output,
                        temporary=self._stage.temporary_output(),
                        manifest=lambda: self._manifest(time.monotonic() - before, 0),
                        check_stopped=check_stopped,
                    )
                )
            except BaseException as error:  # noqa: BLE001 - it is raised on the thread that waits
                result.put(error)

        thread = threading.Thread(target=work, daemon=True, name="mullama-publish")
        thread.start()
        try:
            while True:
                self._raise_if_stopped()
                with contextlib.suppress(queue.Empty):
                    size = result.get(timeout=POLL_SECONDS)
                    break
        except BaseException:
            abandoned.set()
            thread.join(2.0)
            raise
        if isinstance(size, BaseException):
            raise size
        return self._manifest(time.monotonic() - before, size)

    def _refuse_changed_input(self) -> None:
        # An attempt that outlived its successor must not publish what the input was before.
        if open_input(self._partition.files).identity != self._source.identity:
            raise InputChangedError(
                f"The input {self._partition.input} was changed while it was processed; nothing was published: run "
                "the task again, and rows whose request is unchanged are not computed twice."
            )

    def _manifest(self, publish_seconds: float, bytes_out: int) -> PartitionManifest:
        progress = self._progress
        if sum(progress.status_counts.values()) != self._source.rows:
            raise AccountingError(
                f"{self._source.rows} rows came in and {progress.status_counts} are accounted for; nothing was "
                "published."
            )
        seconds = dict(self._seconds)
        seconds["writing"] += publish_seconds
        return PartitionManifest(
            task=self._job.task,
            input_path=self._partition.input.url,
            output_path=self._partition.output.url,
            engine=self._job.engine_spec.name,
            engine_version=self._engine_version,
            model=self._model.name,
            model_sha256=self._model.sha256,
            fingerprint=self._fingerprint,
            rows=self._source.rows,
            status_counts=dict(progress.status_counts),
            error_types=dict(progress.error_types),
            attempts=progress.attempts,
            prompt_tokens=progress.prompt_tokens,
            completion_tokens=progress.completion_tokens,
            computed_rows=progress.computed_rows,
            resumed_rows=max(0, self._resumed - self._kept - self._reused),
            repaired_rows=self._repaired,
            reused_rows=self._reused,
            request_fingerprint=self._request_fingerprint,
            output_schema=self._job.schema.json_schema if self._job.schema else None,
            constrained=self._constrained,
            seconds=Seconds(total=time.monotonic() - self._started, **seconds),
            bytes_in=self._source.size,
            bytes_out=bytes_out,
            started_at=self._started_at,
            ended_at=utc_now(),
        )


def _without_request(task: str, error_type: ErrorType, rows: list[tuple[int, RowError]]) -> pa.RecordBatch:
    """Outcomes of rows that the engine is never asked for: no attempt was made."""
    return error_batch(
        task, [row for row, _ in rows], error_type, [error.message for _, error in rows], [0] * len(rows)
    )
