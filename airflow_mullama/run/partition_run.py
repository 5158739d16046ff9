"""The run of one partition, from its checks to its published output."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from airflow_mullama.background import BackgroundWork, run_in_background
from airflow_mullama.errors import (
    AccountingError,
    InputChangedError,
    JobStoppedError,
    OutputChangedError,
    StageVanishedError,
    StorageUnavailableError,
)
from airflow_mullama.fail_points import reached
from airflow_mullama.manifest import PartitionManifest, Seconds, utc_now
from airflow_mullama.progress import Progress, ProgressListener
from airflow_mullama.row_counts import RowCounts, add_up, count_rows
from airflow_mullama.run.budget import Budget
from airflow_mullama.run.durable_chunks import DurableChunks
from airflow_mullama.run.examination import PartitionWork, examine
from airflow_mullama.run.found_output import superseded
from airflow_mullama.run.inference import Inference, WaitedForGpuError
from airflow_mullama.run.known_rows import KnownRows, stage_known_rows
from airflow_mullama.run.other_attempts import OtherAttempts
from airflow_mullama.storage.partition_output import NewOutput, PublishedOutput
from airflow_mullama.storage.sampled_input import with_exact_timestamps
from airflow_mullama.worker.session import EngineSession
from airflow_mullama.writer import new_attempt

log = logging.getLogger(__name__)

PUBLISH_TRIES = 3
# From the last row to the published output, most of which is written by then.
PUBLISH_SECONDS = 3600.0
EXAMINED_FOR_SECONDS = 5.0


class PartitionRun:
    """One partition's work. Constructing it checks everything that can be checked without spending work.

    Args:
        work: what to do, where and with what.
        listeners: who is told of progress.
        should_stop: whether to end soon.

    Raises:
        MullamaError: the input, its columns, the model or the output are not what the job needs.
    """

    def __init__(
        self, work: PartitionWork, listeners: Sequence[ProgressListener], should_stop: Callable[[], bool]
    ) -> None:
        self._work, self._job, self._partition = work, work.job, work.partition
        self._budget = Budget()
        self._attempt = new_attempt()
        self._begun_again = 0
        self._should_stop = should_stop
        self._listeners = listeners
        self._started: float | None = None
        self._waited_for_gpu = 0.0
        self._inferred = 0.0
        self._following: PartitionRun | None = None
        self._ahead: BackgroundWork[None] | None = None
        self._tidying: BackgroundWork[None] | None = None
        self._examine()

    def _examine(self) -> None:
        """Look at input and output as they are now, and begin anew."""
        self._seen = examine(self._work, self._raise_if_stopped_early)
        self._progress = Progress(self._seen.source.rows, self._partition.input.url, self._listeners)
        self._stage_is_open = False
        self._inference: Inference | None = None
        self._known = KnownRows()

    @property
    def rows(self) -> int:
        """Of the input, when it was last looked at."""
        return self._seen.source.rows

    def followed_by(self, following: PartitionRun) -> None:
        """What comes next; on a store it is made ready while this one is published, as both are mostly waiting."""
        self._following = following if following._partition.waits_for_store else None

    def _prepare_ahead(self) -> None:
        if self._ahead is None:
            self._ahead = BackgroundWork(lambda check_stopped: self._prepare(), "mullama-prepare")

    def _prepare(self) -> None:
        self._examine()
        if not self._seen.found.is_up_to_date:
            self._seen.stage.open()
            self._stage_is_open = True

    def wait_until_tidy(self) -> None:
        """Wait until nothing of what was published is staged any more, or the task is to stop."""
        if self._tidying is not None:
            with contextlib.suppress(JobStoppedError):
                self._tidying.wait(self._raise_if_stopped)

    def run(self, session: EngineSession, budget: Budget | None = None) -> PartitionManifest:
        """Do the work and publish the output.

        Args:
            session: the engine, started when a row first needs it.
            budget: what may be spent, here and on other partitions; by default anything.

        Raises:
            MullamaError: nothing is published; finished rows stay staged for the next attempt.
        """
        self._budget = budget or Budget()
        if self._ahead is not None:
            self._ahead.wait(self._raise_if_stopped_early)
        if time.monotonic() - self._seen.at > EXAMINED_FOR_SECONDS:
            self._examine()  # other partitions came first, and much may have changed meanwhile
        begins = self._started is None
        if self._started is None:
            self._started_at, self._started = utc_now(), time.monotonic()
        published = self._seen.published
        if published is not None and self._seen.found.is_up_to_date:
            self._progress.announce(
                f"{self._partition.output} is up to date ({published.manifest.rows} rows): nothing to do"
            )
            self._seen.existing.output.tidy()
            self._seen.stage.remove()  # of an attempt that ended right after it published
            return published.manifest.as_up_to_date()
        if begins and self._seen.source.promotions:
            self._progress.announce(
                f"the files of {self._partition.input} differ and are read as one schema: "
                + "; ".join(self._seen.source.promotions)
            )
        exact = partial(with_exact_timestamps, self._seen.source)
        self._seen = replace(self._seen, source=run_in_background(exact, self._raise_if_stopped, "mullama-int96"))
        self._seen.existing.output.tidy()
        if not self._stage_is_open:
            self._seen.stage.open()
        if staged := self._seen.stage.staged():
            self._progress.announce(
                f"resuming {self._partition.input}: {len(staged)} of {len(self._seen.chunks)} chunks hold rows of an "
                "earlier attempt"
            )
        self._known = stage_known_rows(self._seen, self._progress, self._raise_if_stopped)
        tries = 0
        while True:
            tries += 1
            try:
                return self._infer_and_publish(session)
            except WaitedForGpuError as waited:
                self._waited_for_gpu += waited.seconds
            except (StageVanishedError, OutputChangedError) as error:
                if (other := self._seen.found.published_since()) is None:
                    if tries == PUBLISH_TRIES:
                        raise
                    self._seen = self._seen.found_anew()
                    log.warning("%s What is missing is computed again.", error)
                    continue
                if self._seen.existing.is_up_to_date(other):
                    return self._left_to(other)
                self._require_same_work(other)
            self._examine()
            return self.run(session, budget)

    def _left_to(self, other: PublishedOutput) -> PartitionManifest:
        """The account of a partition that another attempt has published, with what this one computed in vain."""
        self._progress.announce(
            f"{self._partition.output} was published by another attempt meanwhile ({other.manifest.attempt})"
        )
        self._seen.stage.remove()
        counts = self._progress.counts
        return replace(
            other.manifest.as_up_to_date(),
            computed_rows=counts.computed_rows,
            deduplicated_rows=counts.deduplicated_rows,
        )

    def _require_same_work(self, other: PublishedOutput) -> None:
        """Whether this attempt may go on after another has published: it repairs what is there, as any later one."""
        self._begun_again += 1
        same = other.manifest.fingerprint == self._seen.existing.fingerprint and self._job.if_exists == "resume"
        if same and self._begun_again < PUBLISH_TRIES:
            self._progress.announce(
                f"{self._partition.output} was published by another attempt meanwhile ({other.manifest.attempt}), with "
                f"{other.manifest.retryable_rows} rows that failed: going on with these"
            )
            return
        self._seen.existing.look()  # another writer's output, or another input's, is refused for what it is
        raise superseded(
            self._partition.output.url,
            attempt=self._attempt,
            began=self._started_at,
            fingerprint=self._seen.existing.fingerprint,
            by=other.manifest,
        )

    def _infer_and_publish(self, session: EngineSession) -> PartitionManifest:
        self._progress.restart()
        durable = DurableChunks(self._seen.chunks, self._seen.stage)
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
                self._inference = self._infer(session, durable, raise_if_stopped) if self._seen.chunks else None
            finally:
                self._progress.finish()
            self._progress.announce(f"publishing {self._partition.output}")
            self._inferred = time.monotonic()
            durable.finish()
            if self._following is not None:
                self._following._prepare_ahead()
            size = writing.wait(self._raise_if_stopped_or_overdue)
        except BaseException:
            durable.abandon()
            writing.abandon()
            raise
        manifest = self._manifest(size)
        reached("published")
        self._tidying = BackgroundWork(lambda check_stopped: self._seen.stage.remove(), "mullama-tidy")
        if self._following is None:
            self.wait_until_tidy()
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

    def _raise_if_stopped_early(self) -> None:
        if self._should_stop():
            raise JobStoppedError(f"Stopped while the input {self._partition.input} was looked at; nothing was begun.")

    def _raise_if_stopped(self) -> None:
        if self._should_stop():
            raise JobStoppedError(
                f"Stopped at {self._progress.done} of {self.rows} rows of {self._partition.input}; what is finished is "
                f"kept in {self._seen.stage.location} and the next attempt goes on from there."
            )

    def _raise_if_stopped_or_overdue(self) -> None:
        self._raise_if_stopped()
        if time.monotonic() - self._inferred > PUBLISH_SECONDS:
            raise StorageUnavailableError(
                f"The output {self._partition.output.url!r} was not written within {PUBLISH_SECONDS:g} s of its last "
                "row: its store does not answer, or is too slow for an output of this size. What is finished is kept, "
                "and the next attempt only writes."
            )

    def _infer(self, session: EngineSession, durable: DurableChunks, raise_if_stopped: Callable[[], None]) -> Inference:
        """Get an outcome for every row, and make it durable."""
        inference = Inference(
            job=self._job,
            template=self._seen.template,
            model_name=self._work.model.name,
            source=self._seen.source,
            chunks=self._seen.chunks,
            stage=self._seen.stage,
            durable=durable,
            budget=self._budget,
            others=OtherAttempts(self._seen.stage, self._partition.output, self._seen.found.is_done_by_other),
            columns=self._seen.columns,
            session=session,
            progress=self._progress,
            raise_if_stopped=raise_if_stopped,
        )
        inference.run()
        return inference

    def _write(self, durable: DurableChunks, check_stopped: Callable[[], None]) -> int:
        """Write the output as its chunks become durable, and publish it when every row is accounted for."""

        def manifest() -> PartitionManifest:
            self._seen.refuse_changed_input(check_stopped)
            return self._manifest(bytes_out=0)

        durable.wait_for_first()
        try:
            return self._seen.existing.output.write(
                NewOutput(
                    source=self._seen.source,
                    chunks=durable.tables(),
                    columns=self._seen.columns,
                    output_prefix=self._job.output_prefix,
                    temporary=self._seen.stage.temporary_output(),
                    manifest=manifest,
                    check_stopped=check_stopped,
                    replaces=self._seen.found.version,
                )
            )
        except (JobStoppedError, StageVanishedError, InputChangedError, OutputChangedError):
            raise
        except Exception:
            self._seen.refuse_changed_input(check_stopped)  # then that is why, whatever it looked like
            raise

    def _manifest(self, bytes_out: int) -> PartitionManifest:
        inference = self._inference
        staged = inference.staged_rows if inference else 0
        no_rows = self._seen.columns.schema.empty_table().select(self._seen.columns.names_of_contract)
        counts = add_up(
            [
                count_rows(no_rows),  # which figures this job has
                self._progress.counts,
                RowCounts(
                    resumed_rows=max(0, staged - self._known.kept - self._known.reused),
                    repaired_rows=self._known.repaired,
                    reused_rows=self._known.reused,
                ),
            ]
        )
        if counts.rows != self.rows:
            raise AccountingError(
                f"{self.rows} rows came in and {dict(counts.status_counts)} are accounted for; nothing was published."
            )
        seconds = dict(inference.seconds) if inference else {"writing": 0.0}
        seconds["writing"] += time.monotonic() - self._inferred
        seconds["waiting_for_gpu"] = self._waited_for_gpu
        assert self._started is not None
        info = inference.info if inference else None
        return PartitionManifest(
            task=self._job.task,
            input_path=self._partition.input.address,
            output_path=self._partition.output.address,
            engine=self._job.engine_spec.name,
            engine_version=info.version if info else None,
            model=self._work.model.name,
            model_sha256=self._work.model.sha256,
            fingerprint=self._seen.existing.fingerprint,
            request_fingerprint=self._seen.existing.request_fingerprint,
            output_rows=self._job.output_rows(counts),
            output_schema=self._job.schema.json_schema if self._job.schema else None,
            constrained=info.constrained if info else None,
            lora=[adapter.to_json() for adapter in self._work.model.adapters],
            mmproj=self._work.model.projector.to_json() if self._work.model.projector else None,
            seconds=Seconds(total=time.monotonic() - self._started, **seconds),
            bytes_in=self._seen.source.size,
            bytes_out=bytes_out,
            started_at=self._started_at,
            ended_at=utc_now(),
            sampled=self._work.chosen is not None,
            input_location=self._seen.existing.input_location,
            input_identity=self._seen.input_identity,
            writer=self._work.writer,
            attempt=self._attempt,
            **counts.figures(),
        )
