"""What the engine ``openai`` sends: OpenAI's fields, and beyond them only what the server at hand is known to take.

Field names of servers: llama.cpp ``tools/server/README.md``, vLLM ``vllm/entrypoints/openai/protocol.py``, mullama
``src/daemon/openai.rs``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_mullama.engines.base import EngineSettings, Request
from airflow_mullama.engines.second_try import temperature_to_use, text_to_ask
from airflow_mullama.sampling import Sampling
from airflow_mullama.schemas import OutputSchema, llama_cpp_schema

# Alternatives asked for at each token of a label; the most that each server gives.
TOP_TOKENS: Mapping[str, int] = {"llamacpp": 64, "vllm": 20, "other": 20}
TOP_TOKENS_OF_COMPLETIONS: Mapping[str, int] = {"llamacpp": 64, "vllm": 20, "other": 5}
SCHEMA_NAME = "answer"


@dataclass(frozen=True)
class Extras:
    """What a server may refuse and a job can do without.

    Args:
        schema: ``strict``, ``loose`` (sent, but not binding) or ``None`` (not sent).
        logprobs: ask for the probabilities of tokens.
        max_tokens_field: OpenAI's newer models know it under another name.
    """

    schema: str | None
    logprobs: bool
    max_tokens_field: str = "max_tokens"


class GenerationRequests:
    """Makes the bodies of generation requests.

    Args:
        settings: of the job.
        server: what answers: ``llamacpp``, ``vllm``, ``mullama`` or ``other``.
    """

    def __init__(self, settings: EngineSettings, server: str) -> None:
        self._settings = settings.settings
        self._model = settings.model
        self._server = server
        self._sampling: Sampling = settings.sampling
        self.chat: bool = self._settings.get("chat") is not False
        recorded = self._settings.get("output_schema")
        self._schema = OutputSchema.from_json(recorded) if recorded else None
        self.wants_logprobs = "labels" in self._settings
        self.path = "chat/completions" if self.chat else "completions"

    @property
    def has_schema(self) -> bool:
        """Whether answers are to keep to a schema."""
        return self._schema is not None

    def choices_of_extras(self) -> Iterator[Extras]:
        """What to try to send, the best first; the last has nothing that could be left out."""
        mullama = self._server == "mullama"
        # The daemon's response_format can end the daemon.
        schemas = (None,) if self._schema is None or mullama else ("strict", "loose", None)
        probabilities = (True, False) if self.wants_logprobs and not mullama else (False,)
        for schema in schemas:
            for logprobs in probabilities:
                yield Extras(schema, logprobs)

    def body(self, request: Request, extras: Extras) -> dict[str, Any]:
        """What to send for one row."""
        temperature = temperature_to_use(request, self._sampling.temperature)
        body = self._without_text(temperature, extras)
        text = text_to_ask(request, bool(self._settings.get("repair_prompt")))
        system_prompt = self._settings.get("system_prompt")
        if self.chat:
            messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
            body["messages"] = [*messages, {"role": "user", "content": text}]
        else:
            body["prompt"] = f"{system_prompt}\n\n{text}" if system_prompt else text
        if temperature > 0 and self._server != "mullama":
            body["seed"] = self._sampling.row_seed(request.text, request.attempt)
        return body

    def trial(self, extras: Extras, most_tokens: int) -> dict[str, Any]:
        """A short request with every field that a row's has, to learn whether the server takes them."""
        body = self.body(Request(0, 1, "Say hello."), extras)
        body[extras.max_tokens_field] = min(most_tokens, int(body[extras.max_tokens_field]))
        return body

    def _without_text(self, temperature: float, extras: Extras) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            extras.max_tokens_field: int(self._settings["max_tokens"]),
            **sampling_fields(self._sampling, temperature, self._server),
        }
        if extras.logprobs and self.chat:
            body |= {"logprobs": True, "top_logprobs": TOP_TOKENS[self._server]}
        elif extras.logprobs:
            body["logprobs"] = TOP_TOKENS_OF_COMPLETIONS[self._server]
        if extras.schema is not None and self._schema is not None:
            body |= self._constraint(self._schema, strict=extras.schema == "strict")
        return body

    def _constraint(self, schema: OutputSchema, *, strict: bool) -> dict[str, Any]:
        if self._server == "llamacpp":
            if not self.chat:  # where it ignores response_format without a word
                return {"json_schema": llama_cpp_schema(schema)}
            json_schema = llama_cpp_schema(schema)
        else:
            json_schema = schema.closed_json_schema
        named = {"name": SCHEMA_NAME, "schema": json_schema, "strict": strict}
        return {"response_format": {"type": "json_schema", "json_schema": named}}


def sampling_fields(sampling: Sampling, temperature: float, server: str) -> dict[str, Any]:
    """The sampling parameters as a server knows them.

    To a server that is not known goes nothing beyond OpenAI's own parameters that the user has not changed.
    """
    fields: dict[str, Any] = {"temperature": temperature, "top_p": sampling.top_p}
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    for name in ("presence_penalty", "frequency_penalty"):
        if value := getattr(sampling, name):
            fields[name] = value
    if server == "mullama":
        if temperature == 0:
            fields["top_p"] = 0.0  # keeps the likeliest token alone; a temperature of 0 means 1 there
        return fields
    extras = {"top_k": sampling.top_k, "min_p": sampling.min_p, "repeat_penalty": sampling.repeat_penalty}
    if server == "other":
        usual = Sampling()
        extras = {name: value for name, value in extras.items() if value != getattr(usual, name)}
    if server == "vllm":
        extras["repetition_penalty"] = extras.pop("repeat_penalty")
        extras["top_k"] = extras["top_k"] or -1  # how it writes "all"
    return fields | extras


def ignored_by_mullama(sampling: Sampling) -> list[str]:
    """Names of the parameters that the user set and the daemon does not read."""
    usual = Sampling()
    names = ["top_k", "min_p", "repeat_penalty", "seed"]
    return [name for name in names if getattr(sampling, name) != getattr(usual, name)]


def embedding_body(model: str, texts: Sequence[str], server: str, *, packed: bool) -> dict[str, Any]:
    """What to send for texts to embed.

    Args:
        model: its name on the server.
        texts: one or more.
        server: what answers.
        packed: ask for the vectors in base64, which is smaller than numbers and exact.
    """
    return {
        "model": model,
        "input": list(texts),
        **({"encoding_format": "base64"} if packed else {}),
        # llama.cpp would normalise; the worker does that, the same for every engine.
        **({"embd_normalize": -1} if server == "llamacpp" else {}),
    }


def with_other_field(extras: Extras) -> Extras:
    """The same, for models that know ``max_tokens`` as ``max_completion_tokens`` only."""
    return replace(extras, max_tokens_field="max_completion_tokens")
