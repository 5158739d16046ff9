"""Trying out what a connection says: a model is loaded by a worker process, an endpoint is called."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Mapping
from typing import Any

from airflow_mullama.background import run_in_background
from airflow_mullama.errors import (
    ConfigurationError,
    CredentialsRefusedError,
    ModelLoadError,
    ModelNotFoundError,
)
from airflow_mullama.redaction.foreign_text import printable
from airflow_mullama.storage.filesystems import Resolver

MODELS_LISTED = 5
LONGEST_NAME = 100


def load_model(arguments: Mapping[str, Any], resolver: Resolver, seconds: float) -> str:
    """Start a worker with the model, wait until it is loaded, and end it.

    Args:
        arguments: a job's model, engine and engine options.
        resolver: opens URLs.
        seconds: how long to wait, for everything together: fetching, hashing and loading.

    Returns:
        What the engine says of itself, as a sentence.

    Raises:
        MullamaError: it cannot be loaded; the message says why.
    """
    from airflow_mullama.jobs.trial import trial_job
    from airflow_mullama.run import engine_settings, prepare_model
    from airflow_mullama.worker.client import Exited, Refused, Started
    from airflow_mullama.worker.session import EngineSession

    began = time.monotonic()

    def prepare(check: Callable[[], None]) -> tuple[Any, Any]:
        job = trial_job(arguments, resolver)
        return job, prepare_model(job, resolver)

    def raise_if_overdue() -> None:
        if time.monotonic() >= began + seconds:
            raise ModelLoadError(
                f"The model {arguments['model']!r} was not fetched and checked within {seconds:g} s; that goes on, so "
                "try again later, or raise [mullama] connection_test_seconds."
            )

    job, model = run_in_background(prepare, raise_if_overdue, "mullama-connection-test")
    session = EngineSession(job.engine_spec.name, engine_settings(job, model))
    started = time.monotonic()
    try:
        session.start()
        while True:
            try:
                event = session.events.get(timeout=max(0.0, began + seconds - time.monotonic()))
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


def call_endpoint(options: Mapping[str, Any], model: str | None, seconds: float) -> str:
    """Ask an OpenAI-compatible API for its models, with the client of the engine, its key check and its bounds.

    Some keys may use a model and not see the list, and some servers have no list: then the model itself is asked.

    Args:
        options: of the engine ``openai``.
        model: it must be among them, or answer; ``None``: any will do.
        seconds: how long to wait, for everything together.

    Returns:
        What it answered, as a sentence.

    Raises:
        MullamaError: it does not answer, or not as it should.
    """
    from airflow_mullama.engines.openai.checks import NO_LIST, failure, listed_models, unreachable
    from airflow_mullama.engines.openai.http_client import TransportError
    from airflow_mullama.engines.openai.model_trial import try_model
    from airflow_mullama.engines.openai.options import api_key_of, endpoint_of, http_client

    if not options.get("endpoint"):
        raise ConfigurationError(
            "The connection has no endpoint: set the field 'Endpoint', such as http://gpu-box:8000/v1."
        )
    endpoint = endpoint_of(options)
    address, deadline = f"{endpoint}/models", time.monotonic() + seconds
    with contextlib.closing(http_client({**options, "max_wait": 0.0})) as client:
        try:
            answer = client.get("models", deadline)
        except TransportError as error:
            raise unreachable(endpoint, error) from None
        if model and answer.status in NO_LIST:
            try:
                does = try_model(client, endpoint, model, deadline)
            except ModelNotFoundError as error:
                if answer.status != 404:
                    raise
                raise _no_such_api(address, f", and the model {model!r} likewise") from error
            return f"{address} gives no list of models ({answer.status}), and {model!r} {does}."
    if answer.status == 404:
        raise _no_such_api(address, "")
    if answer.status in (401, 403):
        key = "the API key" if api_key_of(options) else "a connection without an API key"
        name_one = ", or name a model, which is then asked itself" if answer.status == 403 else ""
        raise CredentialsRefusedError(
            f"{address} refused {key} ({answer.status}): check the field 'API key'{name_one}."
        )
    if not answer.ok:
        raise failure(endpoint, model or "", answer)
    names = [str(item.get("id")) for item in listed_models(endpoint, answer)]
    listed = ", ".join(printable(name, LONGEST_NAME) for name in names[:MODELS_LISTED])
    listed += " …" if len(names) > MODELS_LISTED else ""
    if model and model not in names:
        raise ModelNotFoundError(f"{address} answers, and has no model {model!r}; it has: {listed or 'none'}.")
    return f"{address} answers; it has {len(names)} model(s): {listed}."


def _no_such_api(address: str, model_too: str) -> ConfigurationError:
    unless = "" if model_too else "; if it only has no such list, name a model, which is then asked itself"
    return ConfigurationError(
        f"{address} answered 404{model_too}: the endpoint is no OpenAI-compatible API; check its path{unless}."
    )
