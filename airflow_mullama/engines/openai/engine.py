"""The engine for any OpenAI-compatible server: llama-server, vLLM, the mullama daemon, or a service.

Nothing is computed here: rows leave the machine. A row is one request, ``n_parallel`` of them at once; texts to embed
go in lists. The endpoint is not part of the fingerprint, the model's name is: the same model served from another host
goes on where the first left off, and what a name stands for is up to whoever runs the server.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_mullama.arguments import refuse_url
from airflow_mullama.engines.base import EngineInfo, EngineSettings, Generation, Outcome, Request
from airflow_mullama.engines.openai.answers import is_too_long, read_embeddings, read_generation, row_error
from airflow_mullama.engines.openai.checks import describe_server, try_generation
from airflow_mullama.engines.openai.daemon_template import NOT_CHECKED, check_daemon_template
from airflow_mullama.engines.openai.embedding_checks import embedding_length, try_embedding
from airflow_mullama.engines.openai.http_client import Answer, OverdueError, TransportError
from airflow_mullama.engines.openai.lost_server import raise_if_server_is_gone, wait_for_server
from airflow_mullama.engines.openai.options import (
    CHECKS,
    DEFAULT_MAX_WAIT,
    OUTPUT_OPTIONS,
    api_key_of,
    endpoint_of,
    http_client,
    variables,
)
from airflow_mullama.engines.openai.request_bodies import (
    GenerationRequests,
    embedding_body,
    ignored_by_mullama,
    most_embedding_bytes,
)
from airflow_mullama.engines.openai.request_options import secrets_in
from airflow_mullama.engines.openai.token_counts import TokenCounts
from airflow_mullama.engines.reasoning import Reasoning
from airflow_mullama.engines.registry import EngineSpec
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.version import __version__

if TYPE_CHECKING:
    from airflow_mullama.models.resolve import Model

DEFAULT_N_PARALLEL = 16
EMBED_N_PARALLEL = 4
EMBED_ROWS_PER_CALL = 32
SERVER_NAMES = {"llamacpp": "llama.cpp", "vllm": "vLLM", "mullama": "mullama daemon", "other": "OpenAI-compatible"}
LOOPBACK = ("127.", "localhost", "::1")


class OpenAiEngine:
    """A client of one server inside the worker process; see the module."""

    def __init__(self, settings: EngineSettings) -> None:
        options = settings.options
        if settings.require_gpu:
            raise ConfigurationError(
                "require_gpu=True and engine='openai' do not go together: what the server computes on cannot be seen "
                "from here; leave require_gpu out."
            )
        self._settings = settings
        self._endpoint = endpoint_of(options)
        self._client = http_client(options)
        if settings.restarted:
            wait_for_server(self._client, self._endpoint, float(options.get("max_wait", DEFAULT_MAX_WAIT)))
        about = describe_server(self._client, self._endpoint, settings.model, options.get("server"))
        self._server = about.server
        self._labels: Mapping[str, Any] | None = settings.settings.get("labels")
        self._reasoning = Reasoning.of(settings.settings)
        self._dimensions: int | None = None
        self._counts: TokenCounts | None = None
        notes = [*self._key_notes(), *self._template_notes()]
        constrained: bool | None = None
        if settings.task == "generate":
            self.rows_per_call = 1
            self._requests = GenerationRequests(settings, self._server)
            self._refuse_beyond_mullama()
            trial = try_generation(self._client, self._endpoint, settings.model, self._requests)
            self._extras, constrained = trial.extras, trial.constrained
            notes += [*trial.notes, *self._mullama_notes()]
        else:
            embedding = try_embedding(self._client, self._endpoint, settings.model, self._server)
            self._dimensions, self._packed = embedding.dimensions, embedding.packed
            self._refuse_other_length(options.get("dimensions"))
            notes += embedding.notes
            if settings.settings.get("chunking"):
                self._counts = TokenCounts(
                    settings.tokenizer,
                    lambda path, body, most_bytes: self._post(path, body, most_bytes, self._deadline()),
                    self._endpoint,
                    self._server,
                    settings.model,
                )
            several = embedding.lists and not settings.one_at_a_time
            self.rows_per_call = int(options.get("rows_per_call", EMBED_ROWS_PER_CALL)) if several else 1
        usual = DEFAULT_N_PARALLEL if settings.task == "generate" else EMBED_N_PARALLEL
        n_parallel = 1 if settings.one_at_a_time else int(options.get("n_parallel", usual))
        self.info = EngineInfo(
            engine="openai",
            version=__version__,
            n_parallel=n_parallel,
            calls=n_parallel,
            window=2 * n_parallel * self.rows_per_call,
            n_ctx=about.n_ctx,
            text_tokens=about.n_ctx,
            dimensions=self._dimensions,
            chat=settings.task == "generate" and self._requests.chat,
            devices=(f"{self._endpoint} ({SERVER_NAMES[self._server]})",),
            constrained=constrained,
            notes=tuple(notes),
        )
        self.close()  # the threads that ask from now on have connections of their own

    def close(self) -> None:
        """Close this thread's connection."""
        self._client.close()

    def _key_notes(self) -> list[str]:
        endpoint = self._endpoint
        if endpoint.secure or endpoint.host.startswith(LOOPBACK) or api_key_of(self._settings.options) is None:
            return []
        return [f"the API key and the rows go to {endpoint} unencrypted; use https if others share the network"]

    def _mullama_notes(self) -> list[str]:
        if self._server != "mullama":
            return []
        notes = []
        if ignored := ignored_by_mullama(self._settings.sampling):
            notes.append(f"the mullama daemon does not read {', '.join(ignored)}")
        if self._requests.has_schema:
            notes.append("the mullama daemon's response_format is not used: a schema can end the daemon")
        return notes

    def _refuse_beyond_mullama(self) -> None:
        asked = [name for name in ("n", "logprobs") if self._settings.settings.get(name)]
        if self._server == "mullama" and self._requests.has_pictures:
            raise ConfigurationError(
                f"image_columns is given, and the mullama daemon at {self._endpoint} is given no pictures from here; "
                "use engine='llamacpp' with mmproj=, or another server."
            )
        if self._server == "mullama" and asked:
            why = "reads no seed, so that several answers may be one" if "n" in asked else "says no probabilities"
            raise ConfigurationError(
                f"{asked[0]} is given, and the mullama daemon at {self._endpoint} {why}; leave it out, or use "
                "engine='llamacpp'."
            )

    def _template_notes(self) -> list[str]:
        """A warning where nobody knows what the daemon makes of a prompt; it is refused where that is wrong."""
        settings, model_file = self._settings.settings, self._settings.options.get("model_file")
        if self._settings.task != "generate" or settings.get("chat") is False:
            return []
        if self._server != "mullama":
            return []
        if model_file is None:
            return [NOT_CHECKED]
        check_daemon_template(
            self._client, self._endpoint, self._settings.model, model_file, settings.get("system_prompt")
        )
        return []

    def _refuse_other_length(self, expected: int | None) -> None:
        wanted = self._settings.settings.get("dimensions") or 0
        if wanted > (self._dimensions or 0):
            raise ConfigurationError(
                f"dimensions is {wanted} and the vectors of {self._settings.model!r} have {self._dimensions} numbers."
            )
        if expected is not None and expected != self._dimensions:
            raise ConfigurationError(
                f"engine_options['dimensions'] is {expected} and the vectors of {self._settings.model!r} at "
                f"{self._endpoint} have {self._dimensions} numbers; correct it or leave it out."
            )

    def prepare(self, requests: Sequence[Request]) -> list[Request | RowError]:
        alone = self._settings.task == "embed" or not (
            self._requests.chat or self._settings.settings.get("system_prompt")
        )
        return [
            RowError(ErrorType.EMPTY_INPUT, "the text is empty: there is nothing to ask")
            if alone and not request.text
            else request
            for request in requests
        ]

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        assert self._counts is not None
        return [self._counts.of(request.text) for request in requests]

    def run(self, requests: Sequence[Request]) -> list[Outcome]:
        if self._settings.task == "generate":
            return [self._generate(request) for request in requests]
        until = self._deadline(len(requests))
        first = [request for request in requests if request.attempt == 1]
        # A text that failed once goes alone: whatever it does to the server, it does not do it to others again.
        outcomes = iter(self._embed(first, until))
        return [next(outcomes) if request.attempt == 1 else self._embed([request], until)[0] for request in requests]

    def _deadline(self, rows: int = 1) -> float | None:
        row_timeout = self._settings.row_timeout
        return None if row_timeout is None else time.monotonic() + row_timeout * rows

    def _generate(self, request: Request) -> Outcome:
        deadline = self._deadline() if request.deadline is None else request.deadline
        body = self._requests.body(request, self._extras)
        outcome = self._ask(body, deadline)
        if self._labels is None or not self._extras.logprobs or not isinstance(outcome, Generation):
            return outcome
        if outcome.confidence is None and (fuller := self._requests.with_more_probabilities(body)):
            again = self._ask(fuller, deadline)
            if isinstance(again, Generation) and again.response == outcome.response:
                return replace(outcome, confidence=again.confidence)
        return outcome

    def _ask(self, body: Mapping[str, Any], deadline: float | None) -> Outcome:
        """The outcome of one request for a generation."""
        answer = self._post(self._requests.path, body, self._requests.most_answer_bytes(self._extras), deadline)
        if isinstance(answer, RowError):
            return answer
        if not answer.ok:
            return row_error(answer)
        return read_generation(
            answer,
            chat=self._requests.chat,
            max_tokens=self._requests.max_tokens,
            always_says_stop=self._server == "mullama",
            labels=self._labels,
            logprobs=self._requests.needs_logprobs,
            tags=self._reasoning.tags,
        )

    def _embed(self, requests: Sequence[Request], until: float | None) -> list[Outcome]:
        if not requests:
            return []
        texts = [request.text for request in requests]
        body = embedding_body(self._settings.model, texts, self._server, packed=self._packed)
        assert self._dimensions is not None
        answer = self._post("embeddings", body, most_embedding_bytes(len(texts), self._dimensions), until)
        if not isinstance(answer, RowError) and not answer.ok:
            if len(requests) > 1 and may_be_one_rows_fault(answer):
                return [outcome for request in requests for outcome in self._embed([request], until)]
            answer = row_error(answer)
        embeddings = answer if isinstance(answer, RowError) else read_embeddings(answer, len(requests))
        if isinstance(embeddings, RowError):
            return [embeddings] * len(requests)
        return [
            embedding
            if len(embedding.vector) == self._dimensions
            else RowError(
                ErrorType.ENGINE_ERROR,
                f"the server gave a vector of {len(embedding.vector)} numbers, after {self._dimensions} at first",
            )
            for embedding in embeddings
        ]

    def _post(self, path: str, body: Mapping[str, Any], most_bytes: int, deadline: float | None) -> Answer | RowError:
        try:
            return self._client.post(path, body, most_bytes, deadline)
        except OverdueError as error:
            if deadline is not None and time.monotonic() >= deadline:
                return RowError(
                    ErrorType.TIMEOUT, f"the answer took longer than row_timeout={self._settings.row_timeout:g} s"
                )
            return RowError(ErrorType.HTTP_ERROR, f"{error} (engine_options['request_timeout'])")
        except TransportError as error:
            raise_if_server_is_gone(self._client, error)
            return RowError(ErrorType.HTTP_ERROR, f"the server at {self._endpoint} gave no answer: {error}")


def may_be_one_rows_fault(answer: Answer) -> bool:
    """Whether a list of texts may have failed because of one of them."""
    error_type = row_error(answer).error_type
    return error_type is ErrorType.REQUEST_REFUSED or is_too_long(answer) or answer.status == 500


def check_model(task: str, settings: Mapping[str, Any], options: Mapping[str, Any], model: Model) -> None:
    """Refuse what cannot work, without asking the server."""
    endpoint_of(options)
    api_key_of(options)
    if task == "embed" and settings.get("pooling"):
        raise ConfigurationError(
            f"pooling is {settings['pooling']!r}, and with engine='openai' the server decides how token vectors become "
            "one; leave it out, and set it where the server is started."
        )
    refuse_url("engine_options['tokenizer']", options.get("tokenizer"))
    if (tokenizer := options.get("tokenizer")) is not None and not os.path.isfile(tokenizer):
        raise ConfigurationError(f"engine_options['tokenizer'] is {tokenizer!r}, and there is no such file.")
    if settings.get("pictures") and settings.get("chat") is False:
        raise ConfigurationError(
            "image_columns is given and chat=False: with engine='openai' pictures go into a chat's messages; leave one "
            "of the two out."
        )
    if task == "generate":
        for name in ("rows_per_call", "dimensions", "tokenizer"):
            if name in options:
                raise ConfigurationError(f"engine_options[{name!r}] is for embedding; leave it out.")


def vector_length(options: Mapping[str, Any], model: Model) -> int:
    """The length that the user gives, else that of a trial.

    Raises:
        MullamaError: the server does not embed.
    """
    if (given := options.get("dimensions")) is not None:
        return int(given)
    endpoint = endpoint_of(options)
    with contextlib.closing(http_client(options)) as client:
        about = describe_server(client, endpoint, model.name, options.get("server"))
        return embedding_length(client, endpoint, model.name, about.server)


SPEC = EngineSpec(
    name="openai",
    package=None,
    install="it is part of this package",
    find_model=None,
    start=OpenAiEngine,
    checks=CHECKS,
    check_model=check_model,
    vector_length=vector_length,
    located_options=frozenset({"model_file"}),
    ends_calls=True,
    tells_logprobs=True,
    takes_pictures=True,
    secrets_in=secrets_in,
    output_options=OUTPUT_OPTIONS,
    variables=variables,
)
