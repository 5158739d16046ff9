"""A job over its partitions, one after the other, with one engine: all are checked first and judged at the end.

What becomes of one partition is :mod:`airflow_mullama.run.partition_run`; the loop over its rows is
:mod:`airflow_mullama.run.inference`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from airflow_mullama.background import map_ahead, run_in_background
from airflow_mullama.errors import ConfigurationError, ErrorBudgetExceededError, JobStoppedError
from airflow_mullama.garbage import seldom_collected
from airflow_mullama.gpus import GpuLease, GpuRequest, lease_gpus
from airflow_mullama.jobs.job import Job
from airflow_mullama.manifest import PartitionManifest, manifest_without_input, merge_manifests
from airflow_mullama.progress import ProgressListener, ProgressLog
from airflow_mullama.row_counts import listed
from airflow_mullama.run.budget import Budget
from airflow_mullama.run.chosen_rows import choose_rows, outputs_to_reuse
from airflow_mullama.run.examination import PartitionWork
from airflow_mullama.run.job_progress import JobProgress
from airflow_mullama.run.partition_run import PartitionRun
from airflow_mullama.run.prepare import engine_settings, prepare_model
from airflow_mullama.storage.addresses import shown_address
from airflow_mullama.storage.filesystems import Resolver, resolve_location
from airflow_mullama.storage.partitions import Partition, Paths, discover_partitions
from airflow_mullama.worker.session import EngineSession
from airflow_mullama.writer import A_PROGRAM, Writer

log = logging.getLogger(__name__)

EXAMINED_AT_ONCE = 16
MOST_NAMED = 3  # of the inputs that are not there; a thousand would not fit into an XCom


def run_job(
    job: Job,
    input_path: Paths,
    output_path: Paths,
    *,
    resolver: Resolver = resolve_location,
    listeners: Sequence[ProgressListener] | None = None,
    stop: threading.Event | None = None,
    leave_out_missing: bool = False,
    writer: Writer = A_PROGRAM,
) -> PartitionManifest:
    """Do a job for every partition of ``input_path``, one after the other, with one engine.

    Args:
        job: what to do.
        input_path: a file, a directory or a list (:func:`airflow_mullama.storage.partitions.discover_partitions`).
        output_path: where the outputs go.
        resolver: opens paths and URLs.
        listeners: who is told of progress; by default the log.
        stop: set it from anywhere, a signal handler too, to end the job soon with what is finished kept.
        leave_out_missing: an input that is not there is left out; if there is none at all, nothing is written, and the
            manifest has no rows and ``skipped="input_missing"``.
        writer: on whose behalf; it is named in the outputs' footers, and another writer's output is not replaced unless
            ``if_exists="overwrite"``.

    Returns:
        The manifest; for several partitions, their sum with each one inside.

    Raises:
        MullamaError: see :mod:`airflow_mullama.errors`. Nothing half-done is visible at the output.
    """
    partitions = discover_partitions(input_path, output_path, resolver, leave_out_missing=leave_out_missing)
    if not partitions:
        return manifest_without_input(
            task=job.task,
            input_path=_listed(input_path),
            output_path=_listed(output_path),
            engine=job.engine_spec.name,
            model=job.model,
        )
    return _run_partitions(job, input_path, partitions, resolver, listeners, stop, writer)


def run_partition(
    job: Job,
    input_path: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    *,
    resolver: Resolver = resolve_location,
    listeners: Sequence[ProgressListener] | None = None,
    stop: threading.Event | None = None,
    writer: Writer = A_PROGRAM,
) -> PartitionManifest:
    """Do a job for one partition; the arguments are those of :func:`run_job`.

    Raises:
        ConfigurationError: ``input_path`` stands for several partitions.
        MullamaError: see :mod:`airflow_mullama.errors`.
    """
    partitions = discover_partitions(input_path, output_path, resolver)
    if len(partitions) != 1:
        raise ConfigurationError(
            f"{shown_address(os.fspath(input_path))!r} stands for {len(partitions)} partitions; call run_job for "
            "several."
        )
    return _run_partitions(job, input_path, partitions, resolver, listeners, stop, writer)


def _listed(paths: Paths) -> str:
    if isinstance(paths, (str, os.PathLike)):
        return os.fspath(paths)
    named = [os.fspath(path) for path in paths[:MOST_NAMED]]
    return ", ".join(named) + (f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else "")


def _run_partitions(
    job: Job,
    input_path: Paths,
    partitions: Sequence[Partition],
    resolver: Resolver,
    listeners: Sequence[ProgressListener] | None,
    stop: threading.Event | None,
    writer: Writer,
) -> PartitionManifest:
    listeners = [ProgressLog()] if listeners is None else listeners
    stop = stop or threading.Event()

    def raise_if_stopped() -> None:
        if stop.is_set():
            raise JobStoppedError("Stopped while the model was looked for; nothing was begun.")

    # It may be fetched, or another task be waited for that fetches it.
    model = run_in_background(lambda check_stopped: prepare_model(job, resolver), raise_if_stopped, "mullama-model")
    partitions, chosen = choose_rows(job, partitions, stop.is_set)
    reused = outputs_to_reuse(job, input_path, partitions, resolver)
    if not job.template.columns:
        log.warning("the template has no {column} placeholder, so that every row asks for the same")
    # Everything that can be known to be wrong with any partition is found before the first row of the first is spent.
    progress = JobProgress(listeners)
    image_root = None if job.picture_root is None else resolver(job.picture_root)
    examined = map_ahead(
        lambda work: PartitionRun(work, [progress], stop.is_set),
        (
            PartitionWork(job, partition, model, writer, rows, output, image_root)
            for partition, rows, output in zip(partitions, chosen, reused, strict=True)
        ),
        EXAMINED_AT_ONCE if any(one.waits_for_store for one in partitions) else 1,
        "mullama-examine",
    )
    runs = list(examined)
    for run, following in pairwise(runs):
        run.followed_by(following)
    session = EngineSession(
        job.engine_spec.name,
        replace(engine_settings(job, model), rows=max(run.rows for run in runs)),
        lambda: _lease_workers(job, listeners, stop),
    )
    progress.start([run.rows for run in runs])
    manifests = []
    budget = Budget.of(job)
    try:
        with seldom_collected():
            for run in runs:
                manifests.append(run.run(session, budget))
                progress.partition_ended(manifests[-1])
    finally:
        session.close()
        for run in runs:
            run.wait_until_tidy()
    manifest = manifests[0] if len(manifests) == 1 else merge_manifests(manifests)
    _check_error_budget(job, manifests, manifest)
    return manifest


def _lease_workers(job: Job, listeners: Sequence[ProgressListener], stop: threading.Event) -> GpuLease:
    """The GPUs of a job, with a worker for each; without one, as many workers as its engine is to have."""

    def raise_if_stopped() -> None:
        if stop.is_set():
            raise JobStoppedError("Stopped before the engine was started; what was finished before is kept.")

    def announce(message: str) -> None:
        for listener in listeners:
            listener.announce(message)

    lease = lease_gpus(GpuRequest(job.gpus), raise_if_stopped, announce)
    if not lease.gpus:
        lease.environments *= int(job.engine_options.get("n_workers", 1))
    return lease


def _check_error_budget(job: Job, manifests: Sequence[PartitionManifest], manifest: PartitionManifest) -> None:
    over = [one for one in manifests if one.error_ratio > job.max_error_ratio]
    if not over:
        return
    worst = max(over, key=lambda one: one.error_ratio)
    may_pass = all((one.failed_rows - one.retryable_rows) / one.rows <= job.max_error_ratio for one in over)
    remedy = (
        "running again repairs only the rows whose error is retryable"
        if may_pass
        else "running again would not mend it, because too many of these errors are not retryable: change the input, "
        "the job or the budget"
    )
    input_path, output_path = shown_address(worst.input_path), shown_address(worst.output_path)
    raise ErrorBudgetExceededError(
        f"{worst.failed_rows} of {worst.rows} rows of {input_path} failed ({listed(worst.failure_types)}), "
        f"which is more than max_error_ratio={job.max_error_ratio:g} allows"
        + (f"; {len(over)} of {len(manifests)} partitions are over it" if len(manifests) > 1 else "")
        + f". The output is written to {output_path}: its error and error_type columns say why; {remedy}.",
        manifest,
        may_pass=may_pass,
    )
