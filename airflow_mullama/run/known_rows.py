"""Staging what needs no engine, because an output that was published before has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from airflow_mullama.background import run_in_background
from airflow_mullama.progress import Progress
from airflow_mullama.run.examination import Examination
from airflow_mullama.run.previous_output import stage_good_rows, stage_reused_rows
from airflow_mullama.storage.partition_output import PartitionOutput, PublishedOutput


@dataclass
class KnownRows:
    """How many rows are known already.

    Args:
        kept: they have the outcome of the same work.
        reused: they have that of the same request.
        repaired: they failed in the same work, and are tried again.
    """

    kept: int = 0
    reused: int = 0
    repaired: int = 0


def stage_known_rows(seen: Examination, progress: Progress, raise_if_stopped: Callable[[], None]) -> KnownRows:
    """Stage the outcomes that the published output has, and the one that a job reuses.

    Args:
        seen: the partition; its stage is open.
        progress: is told.
        raise_if_stopped: called often.
    """
    known = KnownRows()
    outputs = []
    if seen.published is not None:
        outputs.append((seen.published, seen.existing.output))
    if seen.work.reused is not None:
        reused = seen.work.job.output(seen.work.reused)
        if (other := seen.existing.reusable(reused)) is not None:
            outputs.append((other, reused))
    for published, output in outputs:
        work = partial(_stage, known, seen, progress, published, output)
        run_in_background(work, raise_if_stopped, "mullama-known")
    return known


def _stage(
    known: KnownRows,
    seen: Examination,
    progress: Progress,
    published: PublishedOutput,
    output: PartitionOutput,
    check_stopped: Callable[[], None],
) -> None:
    manifest, place, prefix = published.manifest, output.location, seen.work.job.output_prefix
    if manifest.fingerprint == seen.existing.fingerprint and published.keeps_order:
        known.repaired = manifest.retryable_rows
        progress.announce(f"{place}: {known.repaired} of {manifest.rows} rows failed and are tried again")
        known.kept = stage_good_rows(seen.stage, seen.chunks, published, seen.columns, prefix, check_stopped)
    elif manifest.request_fingerprint == seen.existing.request_fingerprint:
        changed = "input changed" if manifest.fingerprint != seen.existing.fingerprint else "output was rewritten"
        progress.announce(f"{place}: the {changed}; looking for rows whose request did not change")
        template = seen.work.job.template  # it compares paths of pictures, and reads no file
        known.reused = stage_reused_rows(
            seen.stage, seen.chunks, published, seen.source, template, seen.columns, prefix, check_stopped
        )
        progress.announce(
            f"{place}: {known.reused} of {seen.source.rows} rows have the same request as before and keep their outcome"
        )
