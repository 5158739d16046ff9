"""Trying out what a connection says: a model is loaded by a worker process, an endpoint is called."""

from __future__ import annotations

import http.client
import json
import queue
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from airflow_mullama.errors import ConfigurationError, ModelLoadError
from airflow_mullama.storage.filesystems import Resolver

MODELS_LISTED = 5


def load_model(arguments: Mapping[str, Any], resolver: Resolver, seconds: float) -> str:
    """Start a worker with the model, wait until it is loaded, and end it.

    Args:
        arguments: a job's model, engine and engine options.
        resolver: opens URLs.
        seconds: how long to wait.

    Returns:
        What the engine says of itself, as a sentence.

    Raises:
        MullamaError: it cannot be loaded; the message says why.
    """
    from airflow_mullama.runner import engine_settings, prepare_model
    from airflow_mullama.worker.client import Exited, Refused, Started
    from airflow_mullama.worker.session import EngineSession

    job = _trial_job(arguments, resolver)
    model = prepare_model(job, resolver)
    session = EngineSession(job.engine_spec.name, engine_settings(job, model))
    started = time.monotonic()
    try:
        session.start()
        while True:
            try:
                event = session.events.get(timeout=max(0.0, started + seconds - time.monotonic()))
            except queue.Empty:
                raise ModelLoadError(
                    f"The model {job.model!r} was not loaded within {seconds:g} s; try a smaller one, or raise "
                    "[mullama] connection_test_seconds."
                ) from None
            if isinstance(event, Refused):
                raise event.error
            if isinstance(event, Exited):
                last = f" Its last words: {event.stderr[-1]}" if event.stderr else ""
                raise ModelLoadError(f"The worker {event.how} while it loaded {job.model!r}.{last}")
            if isinstance(event, Started):
                break
    finally:
        session.close()
    info = event.info
    context = f", {info.n_ctx} tokens a row" if info.n_ctx else ""
    devices = f", on {', '.join(info.devices)}" if info.devices else ""
    return (
        f"{info.engine} {info.version} loaded {job.model!r} in {time.monotonic() - started:.1f} s: {info.n_parallel} "
        f"rows at once{context}{devices}."
    )


def _trial_job(arguments: Mapping[str, Any], resolver: Resolver) -> Any:
    """Generation, or embedding where the model's header says that it is an encoder."""
    from airflow_mullama.jobs import EmbedJob, GenerateJob
    from airflow_mullama.models.gguf_header import read_gguf_header
    from airflow_mullama.models.resolve import locate_model

    generate = GenerateJob(prompt_column="text", **arguments)
    if generate.engine_spec.needs_model_file:
        header = read_gguf_header(locate_model(generate.model, resolver)[0])
        if header.is_encoder:
            return EmbedJob(text_column="text", pooling=None if header.pooling_type else "mean", **arguments)
    return generate


def call_endpoint(endpoint: str | None, api_key: str | None, model: str | None, seconds: float) -> str:
    """Ask an OpenAI-compatible API for its models.

    Args:
        endpoint: its URL, with or without ``/v1``.
        api_key: sent as a bearer token.
        model: it must be among them; ``None``: any will do.
        seconds: how long to wait for each answer.

    Returns:
        What it answered, as a sentence.

    Raises:
        ConfigurationError: it does not answer, or not as it should.
    """
    if not endpoint:
        raise ConfigurationError(
            "The connection has no endpoint: set the field 'Endpoint', such as http://gpu-box:8000/v1."
        )
    base = endpoint.rstrip("/")
    addresses = [f"{base}/models"] if base.endswith("/v1") else [f"{base}/models", f"{base}/v1/models"]
    for address in addresses:
        names = _model_names(address, api_key, seconds)
        if names is not None:
            break
    else:
        raise ConfigurationError(
            f"{addresses[-1]} answered 404: the endpoint is no OpenAI-compatible API; check its path."
        )
    listed = ", ".join(names[:MODELS_LISTED]) + (" …" if len(names) > MODELS_LISTED else "")
    if model and model not in names:
        raise ConfigurationError(f"{address} answers, and has no model {model!r}; it has: {listed or 'none'}.")
    return f"{address} answers; it has {len(names)} model(s): {listed}."


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The engine follows none, and the key is for the address that the user named."""

    def redirect_request(self, *arguments: Any, **keywords: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _model_names(address: str, api_key: str | None, seconds: float) -> list[str] | None:
    """Names of the models; ``None`` if there is nothing at this address."""
    request = urllib.request.Request(address, headers={"Accept": "application/json"})  # noqa: S310 - http(s), checked
    if api_key:
        request.add_header("Authorization", f"Bearer {api_key}")
    try:
        with _OPENER.open(request, timeout=seconds) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                return None
            if error.code in (401, 403):
                key = "the API key" if api_key else "a connection without an API key"
                raise ConfigurationError(
                    f"{address} refused {key} ({error.code}): check the field 'API key'."
                ) from None
            if 300 <= error.code < 400:
                target = error.headers.get("Location") or "another address"
                raise ConfigurationError(f"{address} redirects to {target}; give the final address.") from None
            raise ConfigurationError(f"{address} answered {error.code} {error.reason}.") from None
    except ValueError as error:
        raise ConfigurationError(f"{address} answered something that is no JSON: {error}.") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigurationError(f"{address} does not answer: {reason}.") from None
    models = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(models, list):
        raise ConfigurationError(f"{address} answered JSON without a list of models: it is no OpenAI-compatible API.")
    return [str(one.get("id")) for one in models if isinstance(one, dict)]
