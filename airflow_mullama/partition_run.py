"""The run of one partition, from its checks to its published output."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from airflow_mullama.background import BackgroundWork, run_in_background
from airflow_mullama.chunk_writer import chunk_schema
from airflow_mullama.errors import (
    AccountingError,
    InputChangedError,
    JobStoppedError,
    OutputExistsError,
    StageVanishedError,
)
from airflow_mullama.inference import Inference, WaitedForGpuError
from airflow_mullama.jobs import Job
from airflow_mullama.manifest import PartitionManifest, Seconds, utc_now
from airflow_mullama.models.resolve import Model
from airflow_mullama.progress import Progress, ProgressListener
from airflow_mullama.rows import TRUNCATED, refuse_column_clash
from airflow_mullama.seeding import stage_good_rows, stage_reused_rows
from airflow_mullama.steps import reached
from airflow_mullama.storage.hive_columns import refuse_contradicted_keys
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
from airflow_mullama.worker.session import EngineSession
from airflow_mullama.write_behind import DurableChunks

log = logging.getLogger(__name__)

PUBLISH_TRIES = 3
EXAMINED_FOR_SECONDS = 5.0


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
        self._listeners = listeners
        self._started: float | None = None
        self._waited_for_gpu = 0.0
        self._inferred = 0.0
        self._examine()

    def _examine(self) -> None:
        """Look at input and output as they are now, and check what can be checked."""
        job, model, partition = self._job, self._model, self._partition
        self._examined = time.monotonic()
        self._source = open_input(partition.files)
        refuse_contradicted_keys(self._source)
        job.template.require_columns(self._source.schema.names, partition.input.url)
        refuse_column_clash(self._source.schema.names, job.added_column_names, job.output_prefix)
        self._columns = job.result_columns(model.vector_length)
        self._request_fingerprint = job.request_fingerprint(model_sha256=model.identity)
        self._fingerprint = job.fingerprint(input_identity=self._source.identity, model_sha256=model.identity)
        self._published = self._look_at_output()
        self._progress = Progress(self._source.rows, partition.input.url, self._listeners)
        self._chunks = plan_chunks(self._source.rows, job.chunk_rows)
        self._stage = Stage(partition.output, self._fingerprint, chunk_schema(self._columns))
        self._inference: Inference | None = None
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
        if published.manifest.task != self._job.task:
            raise OutputExistsError(
                f"The output {output.url!r} was written by a task of another kind ({published.manifest.task!r}, and "
                f"this one is {self._job.task!r}); give each its own output_path, or set if_exists='overwrite'."
            )
        return published

    @property
    def rows(self) -> int:
        """Of the input, when it was last looked at."""
        return self._source.rows

    def run(self, session: EngineSession) -> PartitionManifest:
        """Do the work and publish the output.

        Args:
            session: the engine, started when a row first needs it.

        Raises:
            MullamaError: nothing is published; finished rows stay staged for the next attempt.
        """
        if time.monotonic() - self._examined > EXAMINED_FOR_SECONDS:
            self._examine()  # other partitions came first, and much may have changed meanwhile
        if self._started is None:
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
            run_in_background(partial(self._seed, published), self._raise_if_stopped, "mullama-seed")
        for _ in range(PUBLISH_TRIES - 1):
            try:
                return self._infer_and_publish(session)
            except WaitedForGpuError as waited:
                self._waited_for_gpu += waited.seconds
                self._examine()
                return self.run(session)
            except StageVanishedError as error:
                other = read_published(self._partition.output)
                if other is not None and self._is_up_to_date(other):
                    self._progress.announce(f"{self._partition.output} was published by another attempt meanwhile")
                    self._stage.remove()
                    return other.manifest.as_up_to_date()
                log.warning("%s What is missing is computed again.", error)
        return self._infer_and_publish(session)

    def _is_up_to_date(self, published: PublishedOutput) -> bool:
        return published.manifest.fingerprint == self._fingerprint and published.manifest.retryable_rows == 0

    def _infer_and_publish(self, session: EngineSession) -> PartitionManifest:
        self._progress.restart()
        durable = DurableChunks(self._chunks, self._stage)
        # The output is written behind the engine: when the last row is done, little is left to write.
        writing = BackgroundWork(partial(self._write, durable), "mullama-output")

        def give_up() -> None:
            durable.abandon()
            writing.give_up()

        def raise_if_stopped() -> None:
            try:
                self._raise_if_stopped()
            except JobStoppedError:
                give_up()  # while rows are still being saved: there are only seconds for both
                raise
            # What another attempt took away is known when every row has its outcome: then it is computed again or not.
            if writing.error is not None and not isinstance(writing.error, StageVanishedError):
                raise writing.error

        try:
            try:
                self._inference = self._infer(session, durable, raise_if_stopped) if self._chunks else None
            finally:
                self._progress.finish()
            self._progress.announce(f"publishing {self._partition.output}")
            self._inferred = time.monotonic()
            durable.finish()
            size = writing.wait(self._raise_if_stopped)
        except BaseException:
            durable.abandon()
            writing.abandon()
            raise
        manifest = self._manifest(size)
        reached("published")
        self._stage.remove()
        for (error_type, message), row in (self._inference.samples if self._inference else {}).items():
            log.warning("row %d of %s: %s: %s", row, self._partition.input, error_type, message)
        if manifest.truncated_rows:
            log.warning(
                "%d of %d texts of %s are longer than the model reads; their vectors are of their beginning "
                "(truncate='end')",
                manifest.truncated_rows,
                manifest.rows,
                self._partition.input,
            )
        return manifest

    def _seed(self, published: PublishedOutput, check_stopped: Callable[[], None]) -> None:
        """Stage what the published output already knows."""
        manifest, output, prefix = published.manifest, self._partition.output, self._job.output_prefix
        if manifest.fingerprint == self._fingerprint:
            self._repaired = manifest.retryable_rows
            self._progress.announce(f"{output}: {self._repaired} of {manifest.rows} rows failed and are tried again")
            self._kept = stage_good_rows(self._stage, self._chunks, published, self._columns, prefix, check_stopped)
        elif manifest.request_fingerprint == self._request_fingerprint:
            self._progress.announce(f"{output}: the input changed; looking for rows whose request did not")
            self._reused = stage_reused_rows(
                self._stage,
                self._chunks,
                published,
                self._source,
                self._job.template,
                self._columns,
                prefix,
                check_stopped,
            )
            self._progress.announce(
                f"{output}: {self._reused} of {self._source.rows} rows have the same request as before and keep their "
                "outcome"
            )

    def _raise_if_stopped(self) -> None:
        if self._should_stop():
            raise JobStoppedError(
                f"Stopped at {self._progress.done} of {self._source.rows} rows of {self._partition.input}; what is "
                f"finished is kept in {self._stage.location} and the next attempt goes on from there."
            )

    def _infer(self, session: EngineSession, durable: DurableChunks, raise_if_stopped: Callable[[], None]) -> Inference:
        """Get an outcome for every row, and make it durable."""
        inference = Inference(
            job=self._job,
            model_name=self._model.name,
            source=self._source,
            chunks=self._chunks,
            stage=self._stage,
            durable=durable,
            columns=self._columns,
            session=session,
            progress=self._progress,
            raise_if_stopped=raise_if_stopped,
        )
        inference.run()
        return inference

    def _write(self, durable: DurableChunks, check_stopped: Callable[[], None]) -> int:
        """Write the output as its chunks become durable, and publish it when every row is accounted for."""

        def manifest() -> PartitionManifest:
            self._refuse_changed_input()
            return self._manifest(bytes_out=0)

        durable.wait_for_first()
        try:
            return write_output(
                source=self._source,
                chunks=durable.tables(),
                columns=self._columns,
                output_prefix=self._job.output_prefix,
                target=self._partition.output,
                temporary=self._stage.temporary_output(),
                manifest=manifest,
                check_stopped=check_stopped,
            )
        except (JobStoppedError, StageVanishedError, InputChangedError):
            raise
        except Exception:
            self._refuse_changed_input()  # then that is why, whatever it looked like
            raise

    def _refuse_changed_input(self) -> None:
        # An attempt that outlived its successor must not publish what the input was before.
        if open_input(self._partition.files).identity != self._source.identity:
            raise InputChangedError(
                f"The input {self._partition.input} was changed while it was processed; nothing was published: run "
                "the task again, and rows whose request is unchanged are not computed twice."
            )

    def _manifest(self, bytes_out: int) -> PartitionManifest:
        progress = self._progress
        if sum(progress.status_counts.values()) != self._source.rows:
            raise AccountingError(
                f"{self._source.rows} rows came in and {progress.status_counts} are accounted for; nothing was "
                "published."
            )
        inference = self._inference
        seconds = dict(inference.seconds) if inference else {"writing": 0.0}
        seconds["writing"] += time.monotonic() - self._inferred
        seconds["waiting_for_gpu"] = self._waited_for_gpu
        assert self._started is not None
        info = inference.info if inference else None
        staged = inference.staged_rows if inference else 0
        return PartitionManifest(
            task=self._job.task,
            input_path=self._partition.input.url,
            output_path=self._partition.output.url,
            engine=self._job.engine_spec.name,
            engine_version=info.version if info else None,
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
            resumed_rows=max(0, staged - self._kept - self._reused),
            repaired_rows=self._repaired,
            reused_rows=self._reused,
            deduplicated_rows=progress.deduplicated_rows,
            cached_prompt_tokens=inference.cached_tokens if inference else 0,
            truncated_rows=progress.truncated_rows if TRUNCATED in self._columns.schema.names else None,
            request_fingerprint=self._request_fingerprint,
            output_schema=self._job.schema.json_schema if self._job.schema else None,
            constrained=info.constrained if info else None,
            seconds=Seconds(total=time.monotonic() - self._started, **seconds),
            bytes_in=self._source.size,
            bytes_out=bytes_out,
            started_at=self._started_at,
            ended_at=utc_now(),
        )
