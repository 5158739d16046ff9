"""The job with which a model is tried out, before anybody has said what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_mullama.jobs.embed import EmbedJob
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.jobs.job import Job
from airflow_mullama.models.resolve import resolve_model
from airflow_mullama.storage.filesystems import Resolver, resolve_location

TRIAL_COLUMN = "text"
TRIAL_TOKENS = 32


def trial_job(arguments: Mapping[str, Any], resolver: Resolver = resolve_location) -> Job:
    """Generation of a few tokens, or embedding where the engine or the model, an encoder, does nothing else.

    Args:
        arguments: a job's, among them ``model``.
        resolver: opens URLs.

    Returns:
        A job on the column :data:`TRIAL_COLUMN`.

    Raises:
        ModelNotFoundError, ModelMismatchError, ModelUnreadableError, ConfigurationError
    """
    generate = GenerateJob(prompt_column=TRIAL_COLUMN, max_tokens=TRIAL_TOKENS, **arguments)
    if not generate.engine_spec.generates:
        return EmbedJob(text_column=TRIAL_COLUMN, **arguments)
    if not generate.engine_spec.needs_model_file:
        return generate
    header = resolve_model(generate.model, resolver, generate.model_sha256).header
    if not header.is_encoder:
        return generate
    # An encoder that does not say how its token vectors become one works with any way to do it.
    return EmbedJob(text_column=TRIAL_COLUMN, pooling=None if header.pooling_type else "mean", **arguments)
