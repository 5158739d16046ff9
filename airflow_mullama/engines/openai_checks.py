"""Before the first row: is the server there, does it take the key, has it the model, and does it take the requests?

Each answer that is no is one clear sentence; what a server may go without (schema, probabilities) is found out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from airflow_mullama.engines.base import Embedding, Generation
from airflow_mullama.engines.openai_answers import read_embeddings, read_generation, server_words
from airflow_mullama.engines.openai_http import TOO_MANY_REQUESTS, Answer, Endpoint, HttpClient, TransportError
from airflow_mullama.engines.openai_requests import Extras, GenerationRequests, embedding_body, with_other_field
from airflow_mullama.errors import (
    ConfigurationError,
    CredentialsRefusedError,
    EndpointUnavailableError,
    ModelLoadError,
    ModelNotFoundError,
    MullamaError,
)
from airflow_mullama.rows import RowError

MOST_NAMES_SHOWN = 10
# Long enough for white space before an object's brace, where a server leaves it to the model.
TRIAL_TOKENS_WITH_SCHEMA = 16
TRIAL_TEXTS = ("The first text of a trial.", "Another one, about the weather.", "The first text of a trial.")
NOT_IMPLEMENTED = 501
# The same text twice in one request: batches of different shape may differ in the last digits, and no more.
SAME_COSINE = 0.99
OWNERS = {"llamacpp": "llamacpp", "vllm": "vllm"}


@dataclass(frozen=True)
class ServerDescription:
    """What a server says of itself.

    Args:
        server: ``llamacpp``, ``vllm``, ``mullama`` or ``other``.
        n_ctx: tokens one row may use, where it says so.
    """

    server: str
    n_ctx: int | None = None


def describe_server(client: HttpClient, endpoint: Endpoint, model: str, given: str | None) -> ServerDescription:
    """Ask for the server's list of models.

    Args:
        client: asks.
        endpoint: for people.
        model: that must be in the list.
        given: what the user says the server is.

    Raises:
        EndpointUnavailableError: it does not answer, or has no model.
        CredentialsRefusedError, ModelNotFoundError
        ConfigurationError: what answers is no such server.
    """
    answer = _get(client, endpoint, "models")
    if answer.status in (404, 405, NOT_IMPLEMENTED):
        return ServerDescription(given or "other")  # a server without a list; the trial will tell
    if not answer.ok:
        raise failure(endpoint, model, answer)
    value = answer.json()
    listed = value.get("data") if isinstance(value, Mapping) else None
    if not isinstance(listed, list):
        raise ConfigurationError(
            f"What answers at {endpoint} is no OpenAI-compatible server: {endpoint}/models gives no list of models; "
            "check host, port and path (most servers want /v1)."
        )
    models = [item for item in listed if isinstance(item, Mapping)]
    found = next((item for item in models if model in (item.get("id"), *_aliases(item))), None)
    if found is None:
        if not models:
            raise EndpointUnavailableError(
                f"The server at {endpoint} has no model: it may still be loading, or its model failed to load (its own "
                "log says why)."
            )
        # Some gateways list less than they have.
        if not _get(client, endpoint, "models/" + quote(model, safe="")).ok:
            names = [str(item.get("id")) for item in models]
            more = f" and {len(names) - MOST_NAMES_SHOWN} more" if len(names) > MOST_NAMES_SHOWN else ""
            raise ModelNotFoundError(
                f"The server at {endpoint} has no model {model!r}; it has: {', '.join(names[:MOST_NAMES_SHOWN])}{more}."
            )
        found = {}
    return ServerDescription(given or _recognise(client, endpoint, found), _n_ctx(found))


def _aliases(item: Mapping[str, Any]) -> list[Any]:
    aliases = item.get("aliases")
    return aliases if isinstance(aliases, list) else []


def _n_ctx(item: Mapping[str, Any]) -> int | None:
    meta = item.get("meta")
    value = item.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, Mapping) else None)
    return value if isinstance(value, int) else None


def _recognise(client: HttpClient, endpoint: Endpoint, item: Mapping[str, Any]) -> str:
    owner = str(item.get("owned_by"))
    if owner == "local" and endpoint.path == "/v1":  # as the mullama daemon says, which has /status too
        status = _get(client, endpoint, "/status")
        value = status.json() if status.ok else None
        if isinstance(value, Mapping) and "models_loaded" in value:
            return "mullama"
    return OWNERS.get(owner, "other")


def _get(client: HttpClient, endpoint: Endpoint, path: str) -> Answer:
    try:
        return client.get(path)
    except TransportError as error:
        raise unreachable(endpoint, error) from None


def unreachable(endpoint: Endpoint, error: TransportError) -> EndpointUnavailableError:
    """The error of a server that gives no answer."""
    return EndpointUnavailableError(
        f"The server at {endpoint} cannot be reached ({error}): is it running, and are host and port right?"
    )


def failure(endpoint: Endpoint, model: str, answer: Answer) -> MullamaError:
    """The error of the task for an answer that is no success."""
    words = server_words(answer)
    if answer.status in (401, 403):
        return CredentialsRefusedError(
            f"The server at {endpoint} refuses the API key, or has none from us ({words}): give the right one as "
            "api_key, or in the environment variable that api_key_env names (OPENAI_API_KEY if it names none)."
        )
    if answer.status == 404:
        return ModelNotFoundError(f"The server at {endpoint} has no model {model!r} for this task ({words}).")
    if 300 <= answer.status < 400:
        return ConfigurationError(
            f"The server at {endpoint} redirects ({answer.status}), which is not followed: give the address it "
            "redirects to as endpoint."
        )
    if answer.status == TOO_MANY_REQUESTS or (answer.status >= 500 and answer.status != NOT_IMPLEMENTED):
        return EndpointUnavailableError(f"The server at {endpoint} does not work now ({words}).")
    return ModelLoadError(f"The server at {endpoint} refuses the requests of this job, before any row ({words}).")


@dataclass(frozen=True)
class GenerationTrial:
    """What a trial generation found.

    Args:
        extras: that the server takes.
        constrained: whether it held the answer to the schema; ``None`` without a schema.
        notes: for the task's log.
    """

    extras: Extras
    constrained: bool | None
    notes: tuple[str, ...]


def try_generation(client: HttpClient, endpoint: Endpoint, model: str, requests: GenerationRequests) -> GenerationTrial:
    """Ask for a few tokens, with less and less that the server may not know, until it takes the request.

    Raises:
        MullamaError: it takes none; the sentence quotes its words.
    """
    notes: list[str] = []
    refused: Answer | None = None
    for offered in requests.choices_of_extras():
        extras = offered
        most_tokens = TRIAL_TOKENS_WITH_SCHEMA if extras.schema else 1
        answer = _post(client, endpoint, requests.path, requests.trial(extras, most_tokens))
        if answer.status == 400 and b"max_completion_tokens" in answer.body:
            extras = with_other_field(extras)
            answer = _post(client, endpoint, requests.path, requests.trial(extras, most_tokens))
        if answer.status in (400, 422):
            refused = refused or answer
            continue
        if not answer.ok:
            raise failure(endpoint, model, answer)
        generation = read_generation(answer, chat=requests.chat, max_tokens=most_tokens)
        if isinstance(generation, RowError):
            raise ModelLoadError(f"The server at {endpoint} answers, but not as it should: {generation.message}.")
        notes += _notes(requests, extras, refused)
        return GenerationTrial(extras, _is_constrained(requests, extras, generation, notes), tuple(notes))
    assert refused is not None
    raise failure(endpoint, model, refused)


def _notes(requests: GenerationRequests, extras: Extras, refused: Answer | None) -> list[str]:
    words = f" (it answers {server_words(refused)})" if refused else ""
    notes = []
    if requests.has_schema and extras.schema is None and refused:
        notes.append(f"the server refuses response_format{words}")
    if requests.has_schema and extras.schema == "loose":
        notes.append(f"the server takes the schema only with strict off{words}")
    if requests.wants_logprobs and not extras.logprobs:
        notes.append(f"the server gives no probabilities of tokens{words}: confidence will be null")
    return notes


def _is_constrained(
    requests: GenerationRequests, extras: Extras, generation: Generation, notes: list[str]
) -> bool | None:
    """Whether the answer to "Say hello." is an object: that is what a server that ignores the schema does not give."""
    if not requests.has_schema:
        return None
    held = extras.schema == "strict" and generation.response.lstrip().startswith("{")
    if not held:
        notes.append(
            "decoding is not held to the output schema: answers are checked, and rows that break it are asked again"
        )
    return held


@dataclass(frozen=True)
class EmbeddingTrial:
    """What a trial embedding found.

    Args:
        dimensions: length of the vectors.
        packed: whether the server takes ``encoding_format: base64``.
        lists: whether it takes several texts at once.
    """

    dimensions: int
    packed: bool
    lists: bool


def try_embedding(client: HttpClient, endpoint: Endpoint, model: str, server: str) -> EmbeddingTrial:
    """Embed a few short texts, one of them twice.

    Raises:
        MullamaError: the server refuses, or what it gives cannot be embeddings of the texts.
    """
    refused: Answer | None = None
    for texts, packed in ((TRIAL_TEXTS, True), (TRIAL_TEXTS, False), (TRIAL_TEXTS[:1], False)):
        answer = _post(client, endpoint, "embeddings", embedding_body(model, texts, server, packed=packed))
        if answer.status in (400, 422):
            refused = refused or answer
            continue
        if not answer.ok:
            raise failure(endpoint, model, answer)
        embeddings = read_embeddings(answer, len(texts))
        if isinstance(embeddings, RowError):
            raise ModelLoadError(f"The server at {endpoint} answers, but not as it should: {embeddings.message}.")
        if problem := _problem(embeddings):
            raise ModelLoadError(
                f"The vectors of {model!r} at {endpoint} cannot be right: {problem}; use a model and server made for "
                "embeddings."
            )
        return EmbeddingTrial(len(embeddings[0].vector), packed, len(texts) > 1)
    assert refused is not None
    raise failure(endpoint, model, refused)


def _problem(embeddings: list[Embedding]) -> str | None:
    if len({len(embedding.vector) for embedding in embeddings}) > 1:
        return "they are of different lengths"
    vectors = np.stack([embedding.vector for embedding in embeddings]).astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(vectors).all() or not lengths.all():
        return "they hold NaN or infinity, or only zeros"
    if len(vectors) > 1:
        if vectors[0] @ vectors[2] / (lengths[0] * lengths[2]) < SAME_COSINE:
            return "the same text gives different ones"
        if np.array_equal(vectors[0], vectors[1]):
            return "different texts give the same one"
    return None


def _post(client: HttpClient, endpoint: Endpoint, path: str, body: Mapping[str, Any]) -> Answer:
    try:
        return client.post(path, body)
    except TransportError as error:
        raise unreachable(endpoint, error) from None
