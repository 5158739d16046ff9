"""What is done for a job before its first row: the model is found and checked, the worker's settings are made."""

from __future__ import annotations

from dataclasses import replace

from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.jobs.job import Job
from airflow_mullama.models.adapters import resolve_adapters
from airflow_mullama.models.projectors import resolve_projector
from airflow_mullama.models.resolve import Model, locate_model, model_without_file
from airflow_mullama.storage.filesystems import Resolver, resolve_location


def prepare_model(job: Job, resolver: Resolver = resolve_location) -> Model:
    """Find the job's model and check that it can do the job, without loading it.

    Raises:
        EngineNotAvailableError, ModelNotFoundError, ModelMismatchError, ModelUnreadableError, ConfigurationError,
            ChatTemplateMissingError, EndpointUnavailableError, CredentialsRefusedError
    """
    spec = job.engine_spec
    spec.require_available()
    if spec.find_model is None:
        model = model_without_file(job.model)
    else:
        model = spec.find_model(job.model, resolver, job.model_sha256, job.engine_options)
    spec.check_model(job.task, job.engine_settings(), job.engine_options, model)
    if job.task == "embed":
        model = replace(model, vector_length=spec.vector_length(job.engine_options, model))
    named = {name: job.engine_options[name] for name in spec.located_options & job.engine_options.keys()}
    model = replace(model, files={name: str(locate_model(place, resolver)[0]) for name, place in named.items()})
    if job.adapters:
        model = replace(model, adapters=resolve_adapters(job.adapters, model, resolver))
    if job.projector is not None:
        model = replace(model, projector=resolve_projector(job.projector, resolver))
    tokenizer = job.engine_options.get("tokenizer")
    return model if tokenizer is None else replace(model, tokenizer=tokenizer)


def engine_settings(job: Job, model: Model) -> EngineSettings:
    """What the worker is started with for a job and its model."""
    return EngineSettings(
        task=job.task,
        model=model.path,
        options={**job.engine_options, **model.files},
        settings=job.engine_settings(),
        tokenizer=model.tokenizer,
        adapters=[(adapter.path, adapter.scale) for adapter in model.adapters],
        projector=model.projector.path if model.projector else None,
        require_gpu=job.require_gpu,
        row_timeout=job.row_timeout,
        load_timeout=job.load_timeout,
    )
