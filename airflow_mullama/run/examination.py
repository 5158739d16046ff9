"""A look at one partition's input and output as they are now, with every check that spends no work."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from airflow_mullama.background import run_in_background
from airflow_mullama.errors import InputChangedError
from airflow_mullama.jobs.job import Job
from airflow_mullama.jobs.prompts import RequestTemplate
from airflow_mullama.models.resolve import Model
from airflow_mullama.rows import ResultColumns, refuse_column_clash
from airflow_mullama.run.existing_output import ExistingOutput
from airflow_mullama.run.found_output import FoundOutput
from airflow_mullama.run.outcome_rows import chunk_schema
from airflow_mullama.run.picture_root import template_with_files
from airflow_mullama.storage.addresses import table_format
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive_columns import refuse_contradicted_keys
from airflow_mullama.storage.partition_input import PartitionInput
from airflow_mullama.storage.partition_output import PartitionOutput, PublishedOutput
from airflow_mullama.storage.partitions import Partition
from airflow_mullama.storage.places import lasting_name, place_of
from airflow_mullama.storage.sampled_input import Rows, SampledInput
from airflow_mullama.storage.staging.stage import ChunkPlan, Stage
from airflow_mullama.writer import A_PROGRAM, Writer


@dataclass(frozen=True)
class PartitionWork:
    """What is to be done with one partition.

    Args:
        job: what to do.
        partition: where.
        model: with what.
        writer: on whose behalf.
        chosen: the rows of a limit or a sample; ``None``: all.
        reused: an output whose answers need not be asked for again.
        image_root: the folder that paths of pictures begin at, if the job names one.
    """

    job: Job
    partition: Partition
    model: Model
    writer: Writer = A_PROGRAM
    chosen: Rows | None = None
    reused: PartitionOutput | None = None
    image_root: Location | None = None

    @property
    def output(self) -> PartitionOutput:
        """Where the job's output goes."""
        return self.job.output(self.partition.target)

    def open(self, check_stopped: Callable[[], None]) -> PartitionInput:
        """Open the input, which takes a while where it is text, or of many files."""
        source = self.partition.open(self.job.schema_drift, check_stopped)
        refuse_contradicted_keys(source, check_stopped)
        return source if self.chosen is None else SampledInput(source, self.chosen)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was there, and what follows from it.

    Args:
        work: what is to be done.
        at: when, by the monotonic clock.
        source: the input.
        template: renders its rows.
        columns: that the job adds.
        input_identity: of the input's content.
        existing: the output's place.
        found: what was there.
        chunks: the rows that are made durable together.
        stage: where.
    """

    work: PartitionWork
    at: float
    source: PartitionInput
    template: RequestTemplate
    columns: ResultColumns
    input_identity: str
    existing: ExistingOutput
    found: FoundOutput
    chunks: ChunkPlan
    stage: Stage

    @property
    def published(self) -> PublishedOutput | None:
        """The output of an earlier run, if there is one and the job does not replace it."""
        return self.found.published

    def found_anew(self) -> Examination:
        """The same, with the output as it is now."""
        return replace(self, found=FoundOutput.now(self.existing))

    def refuse_changed_input(self, check_stopped: Callable[[], None]) -> None:
        """Look whether the input is still what it was: an attempt must not publish the answers to what it no longer is.

        Raises:
            InputChangedError: it is not.
        """
        if self.work.open(check_stopped).identity != self.source.identity:
            raise InputChangedError(
                f"The input {self.work.partition.input} was changed while it was processed; nothing was published: run "
                "the task again, and rows whose request is unchanged are not computed twice."
            )


def examine(work: PartitionWork, raise_if_stopped: Callable[[], None]) -> Examination:
    """Look at a partition.

    Args:
        work: what is to be done with it.
        raise_if_stopped: called often while the input is opened.

    Raises:
        MullamaError: the input, its columns, the model or the output are not what the job needs.
    """
    job, partition = work.job, work.partition
    at = time.monotonic()
    source = run_in_background(work.open, raise_if_stopped, "mullama-open")
    job.template.require_columns(source.schema.names, partition.input.url)
    job.template.require_types(source.schema, partition.input.url)
    template = template_with_files(job, partition, source.schema, work.image_root)
    refuse_column_clash(source.schema.names, job.added_column_names, job.output_prefix)
    columns = job.result_columns(work.model.vector_length)
    existing = ExistingOutput(
        job=job,
        output=work.output,
        columns=columns,
        fingerprint=job.fingerprint(input_identity=source.identity, model_sha256=work.model.identity),
        request_fingerprint=job.request_fingerprint(model_sha256=work.model.identity),
        input_location=lasting_name(place_of(_absolute(partition.input))),
        writer=work.writer,
    )
    found = FoundOutput.now(existing)
    if not found.is_up_to_date:
        existing.output.require_writable(source, columns, job.output_prefix)  # a table is made, if there is none
    return Examination(
        work=work,
        at=at,
        source=source,
        template=template,
        columns=columns,
        input_identity=source.identity,
        existing=existing,
        found=found,
        chunks=ChunkPlan(source.rows, job.chunk_rows),
        stage=existing.output.stage(existing.fingerprint, chunk_schema(columns)),
    )


def _absolute(location: Location) -> str:
    return location.path if location.is_local and table_format(location.address) is None else location.url
