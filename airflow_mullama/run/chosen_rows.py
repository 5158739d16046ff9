"""Which rows a limit or a sample takes of a job's partitions, and whose outcomes are known from an earlier output."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from airflow_mullama.background import map_ahead, run_in_background
from airflow_mullama.errors import JobStoppedError
from airflow_mullama.jobs.job import Job
from airflow_mullama.storage.addresses import shown_address
from airflow_mullama.storage.filesystems import Resolver
from airflow_mullama.storage.partition_output import PartitionOutput
from airflow_mullama.storage.partitions import Partition, Paths, discover_partitions
from airflow_mullama.storage.sampled_input import Rows, drawn_rows, first_rows

log = logging.getLogger(__name__)

# In an object store, counting is waiting for footers.
COUNTED_AT_ONCE = 8


def choose_rows(
    job: Job, partitions: Sequence[Partition], should_stop: Callable[[], bool]
) -> tuple[Sequence[Partition], Sequence[Rows | None]]:
    """The partitions that a limit or a sample has rows of, and which; without one, all of them.

    Raises:
        JobStoppedError: ``should_stop`` says so.
        MullamaError: an input cannot be read.
    """
    if job.limit is None and job.sample is None:
        return partitions, [None] * len(partitions)

    def raise_if_stopped() -> None:
        if should_stop():
            raise JobStoppedError("Stopped while the rows of the input were counted; nothing was begun.")

    def count(check_stopped: Callable[[], None], partition: Partition) -> int:
        return partition.open(job.schema_drift, check_stopped).rows

    def counts_up_to_limit(limit: int, check_stopped: Callable[[], None]) -> list[int]:
        counts: list[int] = []
        for partition in partitions:
            if sum(counts) >= limit:
                break
            counts.append(count(check_stopped, partition))
        return counts

    def all_counts(check_stopped: Callable[[], None]) -> list[int]:
        return list(map_ahead(partial(count, check_stopped), partitions, COUNTED_AT_ONCE, "mullama-count"))

    if job.limit is not None:
        counts = run_in_background(partial(counts_up_to_limit, job.limit), raise_if_stopped, "mullama-count")
        chosen = first_rows(counts, job.limit)
        log.info("the first %s rows are chosen", f"{sum(map(len, chosen)):,}")
    else:
        counts = run_in_background(all_counts, raise_if_stopped, "mullama-count")
        chosen = drawn_rows(counts, job.sample or 0, job.sample_seed)
        log.info("%s of %s rows are chosen", f"{sum(map(len, chosen)):,}", f"{sum(counts):,}")
    pairs = [(partition, rows) for partition, rows in zip(partitions, chosen, strict=False) if len(rows)]
    pairs = pairs or [(partitions[0], chosen[0])]  # none of them has a row
    return [partition for partition, _ in pairs], [rows for _, rows in pairs]


def outputs_to_reuse(
    job: Job, input_path: Paths, partitions: Sequence[Partition], resolver: Resolver
) -> Sequence[PartitionOutput | None]:
    """Where ``reuse_from`` has each partition: where its output would go if that were the ``output_path``."""
    if job.reuse_from is None:
        return [None] * len(partitions)
    there = discover_partitions(input_path, job.reuse_from, resolver, leave_out_missing=True)
    outputs = {partition.input.address: partition.target for partition in there}
    reused = [outputs.get(partition.input.address) for partition in partitions]
    if not any(output is not None and output.exists() for output in reused):
        log.warning("reuse_from: %s has none of these partitions", shown_address(job.reuse_from))
    return reused
