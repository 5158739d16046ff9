"""One partition in, one partition out: the loop that keeps every promise to the rows.

Requests are read and rendered on one thread, outcomes made durable on another and written to the output on a third, the
engine computes in the worker process; this thread only moves things between them, so that it can be stopped at any
moment.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Union

from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.errors import ConfigurationError, ErrorBudgetExceededError, JobStoppedError
from airflow_mullama.gpus import GpuLease, GpuRequest, lease_gpus
from airflow_mullama.jobs import Job
from airflow_mullama.manifest import PartitionManifest, manifest_without_input, merge_manifests
from airflow_mullama.models.resolve import Model, model_without_file, resolve_model
from airflow_mullama.partition_run import PartitionRun
from airflow_mullama.progress import LogListener, ProgressListener
from airflow_mullama.storage.filesystems import Resolver, resolve_location
from airflow_mullama.storage.partitions import Partition, discover_partitions
from airflow_mullama.worker.session import EngineSession

log = logging.getLogger(__name__)

Paths = Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]]]


def run_job(
    job: Job,
    input_path: Paths,
    output_path: Paths,
    *,
    resolver: Resolver = resolve_location,
    listeners: Sequence[ProgressListener] | None = None,
    stop: threading.Event | None = None,
    leave_out_missing: bool = False,
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
    return _run_partitions(job, partitions, resolver, listeners, stop)


def run_partition(
    job: Job,
    input_path: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    *,
    resolver: Resolver = resolve_location,
    listeners: Sequence[ProgressListener] | None = None,
    stop: threading.Event | None = None,
) -> PartitionManifest:
    """Do a job for one partition; the arguments are those of :func:`run_job`.

    Raises:
        ConfigurationError: ``input_path`` stands for several partitions.
        MullamaError: see :mod:`airflow_mullama.errors`.
    """
    partitions = discover_partitions(input_path, output_path, resolver)
    if len(partitions) != 1:
        raise ConfigurationError(
            f"{os.fspath(input_path)!r} stands for {len(partitions)} partitions; call run_job for several."
        )
    return _run_partitions(job, partitions, resolver, listeners, stop)


def _listed(paths: Paths) -> str:
    return os.fspath(paths) if isinstance(paths, (str, os.PathLike)) else ", ".join(os.fspath(path) for path in paths)


def _run_partitions(
    job: Job,
    partitions: Sequence[Partition],
    resolver: Resolver,
    listeners: Sequence[ProgressListener] | None,
    stop: threading.Event | None,
) -> PartitionManifest:
    listeners = [LogListener()] if listeners is None else listeners
    stop = stop or threading.Event()
    model = prepare_model(job, resolver)
    if not job.template.columns:
        log.warning("the template has no {column} placeholder, so that every row asks for the same")
    # Everything that can be known to be wrong with any partition is found before the first row of the first is spent.
    runs = [PartitionRun(job, partition, model, listeners, stop.is_set) for partition in partitions]
    session = EngineSession(
        job.engine_spec.name,
        replace(engine_settings(job, model), rows=max(run.rows for run in runs)),
        lambda: _lease_workers(job, listeners, stop),
    )
    try:
        manifests = [run.run(session) for run in runs]
    finally:
        session.close()
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


def prepare_model(job: Job, resolver: Resolver = resolve_location) -> Model:
    """Find the job's model and check that it can do the job, without loading it.

    Raises:
        EngineNotAvailableError, ModelNotFoundError, ModelUnreadableError, ConfigurationError,
            ChatTemplateMissingError, EndpointUnavailableError, CredentialsRefusedError
    """
    spec = job.engine_spec
    spec.require_available()
    model = resolve_model(job.model, resolver) if spec.needs_model_file else model_without_file(job.model)
    spec.check_model(job.task, job.engine_settings(), job.engine_options, model.header, job.model)
    if job.task == "embed":
        model = replace(model, vector_length=spec.vector_length(job.engine_options, model.header, job.model))
    tokenizer = job.engine_options.get("tokenizer")
    return model if tokenizer is None else replace(model, tokenizer=tokenizer)


def engine_settings(job: Job, model: Model) -> EngineSettings:
    """What the worker is started with for a job and its model."""
    return EngineSettings(
        task=job.task,
        model=model.path,
        options=job.engine_options,
        settings=job.engine_settings(),
        tokenizer=model.tokenizer,
        require_gpu=job.require_gpu,
        row_timeout=job.row_timeout,
    )


def _check_error_budget(job: Job, manifests: Sequence[PartitionManifest], manifest: PartitionManifest) -> None:
    over = [one for one in manifests if one.rows and one.failed_rows / one.rows > job.max_error_ratio]
    if not over:
        return
    worst = max(over, key=lambda one: one.failed_rows / one.rows)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(worst.error_types.items()) if name != "null_input")
    raise ErrorBudgetExceededError(
        f"{worst.failed_rows} of {worst.rows} rows of {worst.input_path} failed ({counts}), which is more than "
        f"max_error_ratio={job.max_error_ratio:g} allows"
        + (f"; {len(over)} of {len(manifests)} partitions are over it" if len(manifests) > 1 else "")
        + f". The output is written to {worst.output_path}: its error and error_type columns say why; running again "
        "repairs only the rows whose error is retryable.",
        manifest,
    )
