"""Before the first row: is the server there, does it take the key, have the model, and take the requests?

Whatever is wrong is one clear sentence; what a server may lack (schema, probabilities) is found out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from airflow_mullama.engines.base import Generation, NoAnswer
from airflow_mullama.engines.openai.answers import read_generation, server_words
from airflow_mullama.engines.openai.http_client import TOO_MANY_REQUESTS, Answer, Endpoint, HttpClient, TransportError
from airflow_mullama.engines.openai.reasoning_fields import Fields
from airflow_mullama.engines.openai.request_bodies import Extras, GenerationRequests
from airflow_mullama.errors import (
    ConfigurationError,
    CredentialsRefusedError,
    EndpointUnavailableError,
    ModelLoadError,
    ModelNotFoundError,
    MullamaError,
)
from airflow_mullama.rows import ErrorType, RowError

MOST_NAMES_SHOWN = 10
# Long enough for white space before an object's brace, where a server leaves it to the model.
TRIAL_TOKENS_WITH_SCHEMA = 16
# Of a model that thinks before it answers a trial with a schema; most are done with "Say hello." sooner.
MOST_THINKING_TOKENS = 2048
NOT_IMPLEMENTED = 501
# Of ``/models``: it is not for this key, or it is not there.
NO_LIST = (403, 404, 405, NOT_IMPLEMENTED)
# The rows will be refused for the same, unless that is because a trial asks for so little: models that reason first
# need more tokens for any answer.
REFUSED = (400, 422)
TOO_FEW_TOKENS = re.compile(
    r"max_(completion_|output_)?tokens|output limit|more tokens|too few|at least", re.IGNORECASE
)
# Azure lists the models that one may deploy, not those that are deployed, and it is those that are asked.
AZURE_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
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
        ConfigurationError: what answers is not such a server.
    """
    if endpoint.host.endswith(AZURE_HOSTS):
        return ServerDescription(given or "other")
    answer = _get(client, endpoint, "models")
    if answer.status in NO_LIST:
        return ServerDescription(given or "other")  # no list, or not for this key; the trial will tell
    if not answer.ok:
        raise failure(endpoint, model, answer)
    models = listed_models(endpoint, answer)
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


def listed_models(endpoint: Endpoint, answer: Answer) -> list[Mapping[str, Any]]:
    """The models of a successful answer to ``/models``.

    Raises:
        ConfigurationError: it holds no list of them.
    """
    value = answer.json()
    bare = isinstance(value, list) and all(isinstance(item, Mapping) for item in value)  # as Together gives it
    listed = value if bare else value.get("data") if isinstance(value, Mapping) else None
    if not isinstance(listed, list):
        raise ConfigurationError(
            f"What answers at {endpoint} is no OpenAI-compatible server: {endpoint}/models gives no list of models; "
            "check host, port and path (most servers want /v1)."
        )
    return [item for item in listed if isinstance(item, Mapping)]


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
    """The error of the task for an answer that is not a success."""
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
    if (
        answer.status >= 500 and "Failed to get sequence embeddings" in words
    ):  # the mullama daemon, whenever it is asked
        return ConfigurationError(
            f"The model {model!r} at {endpoint} declares no pooling, and the mullama daemon embeds with no other "
            f"({words}): take a model made for embeddings, or engine='llamacpp' with pooling."
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
    learned = Extras(None, logprobs=False)
    told_off: list[Fields] = []
    for offered in requests.choices_of_extras():
        if offered.of_reasoning in told_off:
            continue
        extras = replace(offered, max_tokens_field=learned.max_tokens_field, left_out=learned.left_out)
        learned, most_tokens, answer = _ask_without_refused(client, endpoint, requests, extras, notes)
        extras = learned
        if answer.status in REFUSED:
            refused = refused or answer
            if any(name.encode() in answer.body for name in extras.of_reasoning):
                told_off.append(extras.of_reasoning)
            continue
        if not answer.ok:
            _refuse_without_sight(client, endpoint, requests, extras, answer)
            raise failure(endpoint, model, answer)
        generation = read_generation(
            answer, chat=requests.chat, max_tokens=most_tokens, logprobs=requests.needs_logprobs
        )
        if isinstance(generation, RowError) and generation.error_type is not ErrorType.NO_ANSWER:
            raise ModelLoadError(f"The server at {endpoint} answers, but not as it should: {generation.message}.")
        if requests.needs_logprobs and isinstance(generation, Generation) and generation.log_probabilities is None:
            raise ConfigurationError(
                f"logprobs=True, and the server at {endpoint} does not say how likely an answer's tokens were: leave "
                "logprobs out, or use engine='llamacpp'."
            )
        if extras.schema and isinstance(generation, NoAnswer):  # of so few tokens, by a model that thinks first
            most_tokens, most_bytes = MOST_THINKING_TOKENS, requests.most_answer_bytes(extras)
            answer = post(client, endpoint, requests.path, requests.trial(extras, most_tokens), most_bytes)
            generation = read_generation(answer, chat=requests.chat, max_tokens=most_tokens)
        if requests.has_pictures and _drops_pictures(client, endpoint, requests, extras, generation):
            notes.append("the server counts no token for a picture: it may drop pictures without a word")
        notes += _notes(requests, extras, refused)
        thinks = generation.generation if isinstance(generation, NoAnswer) else generation
        refusal = "" if refused is None else f" (it answers {server_words(refused)})"
        if note := requests.off_note(extras, thinks, refusal):
            notes.append(note)
        text = generation.response if isinstance(generation, Generation) else ""
        return GenerationTrial(extras, _is_constrained(requests, extras, text, notes), tuple(notes))
    assert refused is not None
    _refuse_without_sight(client, endpoint, requests, learned, refused)
    raise failure(endpoint, model, refused)


def _refuse_without_sight(
    client: HttpClient, endpoint: Endpoint, requests: GenerationRequests, extras: Extras, refused: Answer
) -> None:
    """Say that it is for the picture, where a server takes the trial without one.

    Raises:
        ConfigurationError: it is.
    """
    if requests.has_pictures and _ask_without_picture(client, endpoint, requests, extras).ok:
        raise ConfigurationError(
            f"image_columns is given, and the server at {endpoint} takes a request, but not the same one with a "
            f"picture ({server_words(refused)}): serve a model that sees pictures (llama-server: with --mmproj)."
        )


def _drops_pictures(
    client: HttpClient, endpoint: Endpoint, requests: GenerationRequests, extras: Extras, generation: object
) -> bool:
    """Whether a trial with a picture has no more tokens than one without."""
    answer = _ask_without_picture(client, endpoint, requests, extras)
    without = read_generation(answer, chat=requests.chat, max_tokens=requests.max_tokens) if answer.ok else None
    counts = [
        None if not isinstance(one, (Generation, NoAnswer)) else _prompt_tokens(one) for one in (generation, without)
    ]
    return counts[0] is not None and counts[1] is not None and counts[0] <= counts[1]


def _prompt_tokens(outcome: Generation | NoAnswer) -> int | None:
    return (outcome.generation if isinstance(outcome, NoAnswer) else outcome).prompt_tokens


def _ask_without_picture(
    client: HttpClient, endpoint: Endpoint, requests: GenerationRequests, extras: Extras
) -> Answer:
    body = requests.trial(extras, TRIAL_TOKENS_WITH_SCHEMA, pictures=False)
    return post(client, endpoint, requests.path, body, requests.most_answer_bytes(extras))


def _ask_without_refused(
    client: HttpClient, endpoint: Endpoint, requests: GenerationRequests, extras: Extras, notes: list[str]
) -> tuple[Extras, int, Answer]:
    """Ask for a few tokens, without what the server refuses by name, and for as many as a row if few are refused.

    Returns:
        What the last request had, how many tokens it asked for, and the answer.
    """
    most_tokens = TRIAL_TOKENS_WITH_SCHEMA if extras.schema or requests.forbids_thoughts else 1
    while True:
        body, most_bytes = requests.trial(extras, most_tokens), requests.most_answer_bytes(extras)
        answer = post(client, endpoint, requests.path, body, most_bytes)
        words = answer.body.decode("utf-8", "replace")
        if answer.status not in REFUSED:
            return extras, most_tokens, answer
        fewer = requests.without_refused(extras, words)
        if fewer is not None:
            notes += [
                f"the server refuses {name}, so its own is used (it answers {server_words(answer)})"
                for name in fewer.left_out - extras.left_out
            ]
            extras = fewer
        elif most_tokens < requests.max_tokens and TOO_FEW_TOKENS.search(words):
            most_tokens = requests.max_tokens
        else:
            return extras, most_tokens, answer


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


def _is_constrained(requests: GenerationRequests, extras: Extras, text: str, notes: list[str]) -> bool | None:
    """Whether the answer to "Say hello." is an object: that is what a server that ignores the schema does not give."""
    if not requests.has_schema:
        return None
    held = extras.schema == "strict" and text.lstrip().startswith("{")
    if not held:
        notes.append(
            "decoding is not held to the output schema: answers are checked, and rows that break it are asked again"
        )
    return held


def post(client: HttpClient, endpoint: Endpoint, path: str, body: Mapping[str, Any], most_bytes: int) -> Answer:
    """Ask before the first row.

    Raises:
        EndpointUnavailableError: no answer came.
    """
    try:
        return client.post(path, body, most_bytes)
    except TransportError as error:
        raise unreachable(endpoint, error) from None
