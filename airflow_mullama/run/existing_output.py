"""What lies at an output's place before it is written: an earlier state of the same work, or somebody else's."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from airflow_mullama.errors import OutputExistsError
from airflow_mullama.jobs.job import Job
from airflow_mullama.jobs.pictures import PictureTemplate
from airflow_mullama.rows import ResultColumns
from airflow_mullama.storage.partition_output import PartitionOutput, PublishedOutput
from airflow_mullama.writer import Writer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExistingOutput:
    """The place of one partition's output.

    Args:
        job: what is to be done.
        output: where it goes.
        columns: that the job adds.
        fingerprint, request_fingerprint: of the work, and of the part of it that is not the input's.
        input_location: where the input lies.
        writer: on whose behalf.
    """

    job: Job
    output: PartitionOutput
    columns: ResultColumns
    fingerprint: str
    request_fingerprint: str
    input_location: str
    writer: Writer

    def look(self) -> PublishedOutput | None:
        """The output of an earlier run, if there is one and the job does not replace it.

        Raises:
            OutputExistsError: it is not this job's to replace.
        """
        output, if_exists = self.output.location, self.job.if_exists
        if not self.output.exists() or if_exists == "overwrite":
            return None
        if if_exists == "error":
            raise OutputExistsError(
                f"The output {output.url!r} exists and if_exists='error'; remove it, or set if_exists to 'resume' or "
                "'overwrite'."
            )
        published = self.output.published()
        if published is None or (self._is_of_this_job(published) and not self._has_its_columns(published)):
            raise OutputExistsError(
                f"The output {output.url!r} exists and was not written by this package; give another output_path, or "
                "set if_exists='overwrite' to replace it."
            )
        self._refuse_other_work(published)
        is_sample = self.job.limit is not None or self.job.sample is not None
        if is_sample and not published.manifest.sampled and published.manifest.fingerprint != self.fingerprint:
            raise OutputExistsError(
                f"The output {output.url!r} has all rows of its input, and limit or sample would leave a few of them; "
                "give the sample an output_path of its own, or set if_exists='overwrite'."
            )
        return published

    def _is_of_this_job(self, published: PublishedOutput) -> bool:
        there = published.manifest
        return there.fingerprint == self.fingerprint or there.request_fingerprint == self.request_fingerprint

    def _has_its_columns(self, published: PublishedOutput) -> bool:
        return published.has_columns(self.columns, self.job.output_prefix)

    def _refuse_other_work(self, published: PublishedOutput) -> None:
        """Nobody's work is replaced by accident: what is there is an earlier state of this, or stays."""
        there, output = published.manifest, self.output.location.url
        if there.fingerprint == self.fingerprint:
            return  # the same work, wherever its input lay and whoever did it
        if there.task != self.job.task:
            raise OutputExistsError(
                f"The output {output!r} was written by a task of another kind ({there.task!r}, and this one is "
                f"{self.job.task!r}); give each its own output_path, or set if_exists='overwrite'."
            )
        if there.input_location and there.input_location != self.input_location:
            raise OutputExistsError(
                f"The output {output!r} holds the rows of another input ({there.input_location}, and this one is "
                f"{self.input_location}); give each input an output_path of its own, or set if_exists='overwrite' to "
                "replace what is there."
            )
        if there.request_fingerprint != self.request_fingerprint and not there.writer.is_same_as(self.writer):
            raise OutputExistsError(
                f"The output {output!r} was written by {there.writer} with another prompt, model or settings, and this "
                f"is {self.writer}; give each an output_path of its own, or set if_exists='overwrite' to replace what "
                "is there."
            )

    def is_up_to_date(self, published: PublishedOutput) -> bool:
        """Whether nothing is to be done."""
        return published.manifest.fingerprint == self.fingerprint and published.manifest.retryable_rows == 0

    def reusable(self, other: PartitionOutput) -> PublishedOutput | None:
        """What another place has of this partition, if the same job made it."""
        if not other.exists() or (there := other.published()) is None:
            return None
        if there.manifest.request_fingerprint != self.request_fingerprint or not self._has_its_columns(there):
            log.warning("nothing of %s is reused: another prompt or model, or other settings made it", other.location)
            return None
        template = self.job.template
        of_other_input = there.manifest.input_location != self.input_location
        if of_other_input and isinstance(template, PictureTemplate) and template.paths_begin_at_input(there.schema):
            log.warning(
                "nothing of %s is reused: its rows name pictures beside another input (%s), and the same path is "
                "another file there; give both the same image_root",
                other.location,
                there.manifest.input_location,
            )
            return None
        return there
