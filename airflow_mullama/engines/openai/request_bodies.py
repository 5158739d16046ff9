"""What the engine ``openai`` sends: OpenAI's fields, and beyond them only what the server at hand is known to take.

Field names of servers: llama.cpp ``tools/server/README.md``, vLLM ``vllm/entrypoints/openai/protocol.py``, mullama
``src/daemon/openai.rs``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_mullama.engines.base import EngineSettings, Generation, Request
from airflow_mullama.engines.conversation_prompts import example_messages, system_messages
from airflow_mullama.engines.openai.reasoning_fields import Fields, off_note, reasoning_fields
from airflow_mullama.engines.pictures import Picture, data_url, trial_picture
from airflow_mullama.engines.reasoning import Reasoning
from airflow_mullama.engines.sampling import Sampling
from airflow_mullama.engines.second_try import messages_to_ask, temperature_to_use
from airflow_mullama.schemas import OutputSchema, llama_cpp_schema

# Alternatives asked for at each token of a label; the most that each server gives.
TOP_TOKENS: Mapping[str, int] = {"llamacpp": 64, "vllm": 20, "other": 20}
TOP_TOKENS_OF_COMPLETIONS: Mapping[str, int] = {"llamacpp": 64, "vllm": 20, "other": 5}
# Asked for once more where those leave open how probable a label is, of servers that give as many as one asks for.
MORE_TOKENS: Mapping[str, int] = {"llamacpp": 1024}
SCHEMA_NAME = "answer"
# Reasoning models take none of them, others only one of the two.
LEFT_OUT_IF_REFUSED = ("top_p", "temperature")
# The most that an answer may have, from what is asked for. A token is rarely longer than 16 bytes, 6 times that in
# JSON's escapes, and servers may tell of each once more as reasoning; a token's probability has its text and its bytes
# as numbers; a number of a vector has up to 25 characters.
ANSWER_BYTES, BYTES_PER_TOKEN, BYTES_PER_PROBABILITY, BYTES_PER_NUMBER = 1 << 20, 1024, 512, 32
MOST_DIMENSIONS = 65_536


@dataclass(frozen=True)
class Extras:
    """What a server may refuse and a job can do without.

    Args:
        schema: ``strict``, ``loose`` (sent, but not binding) or ``None`` (not sent).
        logprobs: ask for the probabilities of tokens.
        max_tokens_field: OpenAI's newer models know it under another name.
        of_reasoning: fields about the model's thoughts.
        left_out: sampling parameters that it refuses by name.
    """

    schema: str | None
    logprobs: bool
    max_tokens_field: str = "max_tokens"
    of_reasoning: Fields = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()


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
        self.needs_logprobs: bool = bool(self._settings.get("logprobs"))
        self._has_labels = "labels" in self._settings
        self.wants_logprobs = self._has_labels or self.needs_logprobs
        self._of_reasoning = reasoning_fields(server, self._settings, chat=self.chat)
        self.path = "chat/completions" if self.chat else "completions"

    @property
    def has_schema(self) -> bool:
        """Whether answers are to keep to a schema."""
        return self._schema is not None

    @property
    def forbids_thoughts(self) -> bool:
        """Whether the model is told not to think."""
        return not Reasoning.of(self._settings).wanted

    def off_note(self, extras: Extras, trial: object, refusal: str) -> str | None:
        """What to say of that in the task's log.

        Args:
            extras: that the server took.
            trial: what it answered.
            refusal: its words, if it refused others.
        """
        thinks = isinstance(trial, Generation) and bool(trial.reasoning or trial.reasoning_tokens)
        return off_note(self._settings, extras.of_reasoning, thinks=thinks, refusal=refusal)

    def choices_of_extras(self) -> Iterator[Extras]:
        """What to try to send, the best first; the last has nothing that could be left out."""
        mullama = self._server == "mullama"
        # The daemon's response_format can end the daemon.
        schemas = (None,) if self._schema is None or mullama else ("strict", "loose", None)
        if self.needs_logprobs:
            probabilities: tuple[bool, ...] = (True,)
        else:
            probabilities = (True, False) if self.wants_logprobs and not mullama else (False,)
        for of_reasoning, schema, logprobs in itertools.product(self._of_reasoning, schemas, probabilities):
            yield Extras(schema, logprobs, of_reasoning=of_reasoning)

    def body(self, request: Request, extras: Extras) -> dict[str, Any]:
        """What to send for one row."""
        temperature = temperature_to_use(request, self._sampling.temperature)
        body = self._without_text(temperature, extras)
        messages = self._messages(request)
        if self.chat:
            body["messages"] = messages
        else:
            body["prompt"] = "\n\n".join(message["content"] for message in messages)  # check_model refuses pictures
        if temperature > 0 and self._server != "mullama":
            body["seed"] = self._sampling.row_seed(request.text, request.attempt, request.answer)
        return body

    def _messages(self, request: Request) -> list[dict[str, Any]]:
        asked = messages_to_ask(request, bool(self._settings.get("repair_prompt")))
        own: list[dict[str, Any]] = [
            {"role": role, "content": "".join(text for text, _ in parts)} for role, parts in asked
        ]
        if request.pictures:
            own[-1]["content"] = _with_pictures(request.pictures, own[-1]["content"])
        systems = next((place for place, message in enumerate(own) if message["role"] != "system"), len(own))
        before = system_messages(self._settings.get("system_prompt"))
        return [*before, *own[:systems], *example_messages(self._settings.get("examples") or ()), *own[systems:]]

    @property
    def max_tokens(self) -> int:
        """Of a row's answer; OpenAI's field is for thought and answer together."""
        return int(self._settings["max_tokens"]) + (Reasoning.of(self._settings).max_tokens or 0)

    def without_refused(self, extras: Extras, words: str) -> Extras | None:
        """What to send instead where a server refuses a field by name; ``None`` if it names none that can go.

        A sampling parameter that the user set is never left out: the answers would not be what was asked for.
        """
        if extras.max_tokens_field == "max_tokens" and "max_completion_tokens" in words:
            return replace(extras, max_tokens_field="max_completion_tokens")
        usual = Sampling()
        for name in LEFT_OUT_IF_REFUSED:
            unchanged = getattr(self._sampling, name) == getattr(usual, name)
            if unchanged and name not in extras.left_out and re.search(rf"\b{name}\b", words):
                return replace(extras, left_out=extras.left_out | {name})
        return None

    def with_more_probabilities(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """The same request for as many probabilities as the server gives; ``None`` if it gives no more."""
        more = MORE_TOKENS.get(self._server)
        return None if more is None else {**body, "top_logprobs" if self.chat else "logprobs": more}

    def most_answer_bytes(self, extras: Extras) -> int:
        """How long the answer to a row's request may be."""
        probabilities = self._alternatives if extras.logprobs else 0
        if extras.logprobs and self._has_labels:
            probabilities = max(probabilities, MORE_TOKENS.get(self._server, 0))
        per_token = BYTES_PER_TOKEN + probabilities * BYTES_PER_PROBABILITY
        return ANSWER_BYTES + self.max_tokens * per_token

    @property
    def _alternatives(self) -> int:
        """Alternatives asked for at each token."""
        if not self._has_labels:
            return 1
        return (TOP_TOKENS if self.chat else TOP_TOKENS_OF_COMPLETIONS)[self._server]

    @property
    def has_pictures(self) -> bool:
        """Whether rows have pictures."""
        return bool(self._settings.get("pictures"))

    def trial(self, extras: Extras, most_tokens: int, *, pictures: bool = True) -> dict[str, Any]:
        """A short request with every field that a row's has, to learn whether the server takes them.

        Args:
            extras: of these fields.
            most_tokens: of the answer.
            pictures: also with a picture, if rows have any.
        """
        shown = [trial_picture()] if pictures and self.has_pictures else []
        body = self.body(Request(0, 1, "Say hello.", pictures=shown), extras)
        body[extras.max_tokens_field] = min(most_tokens, int(body[extras.max_tokens_field]))
        return body

    def _without_text(self, temperature: float, extras: Extras) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            extras.max_tokens_field: self.max_tokens,
            **sampling_fields(self._sampling, temperature, self._server),
            **extras.of_reasoning,
        }
        if extras.logprobs and self.chat:
            body |= {"logprobs": True, "top_logprobs": self._alternatives}
        elif extras.logprobs:
            body["logprobs"] = self._alternatives
        if extras.schema is not None and self._schema is not None:
            body |= self._constraint(self._schema, strict=extras.schema == "strict")
        return {name: value for name, value in body.items() if name not in extras.left_out}

    def _constraint(self, schema: OutputSchema, *, strict: bool) -> dict[str, Any]:
        if self._server == "llamacpp":
            if not self.chat:  # where it ignores response_format without a word
                return {"json_schema": llama_cpp_schema(schema)}
            json_schema = llama_cpp_schema(schema)
        else:
            json_schema = schema.closed_json_schema
        named = {"name": SCHEMA_NAME, "schema": json_schema, "strict": strict}
        return {"response_format": {"type": "json_schema", "json_schema": named}}


def _with_pictures(pictures: Sequence[Picture], text: str) -> list[dict[str, Any]]:
    """A message's content in parts. A text of no characters is left out: some servers refuse it."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in pictures
    ]
    return [*parts, {"type": "text", "text": text}] if text else parts


def sampling_fields(sampling: Sampling, temperature: float, server: str) -> dict[str, Any]:
    """The sampling parameters as a server knows them.

    An unknown server gets OpenAI's own parameters, and beyond them only those that the user has changed.
    """
    fields: dict[str, Any] = {"temperature": temperature, "top_p": sampling.top_p}
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    for name in ("presence_penalty", "frequency_penalty"):
        if value := getattr(sampling, name):
            fields[name] = value
    if server == "mullama":
        if temperature == 0:
            fields["top_p"] = 0.0  # keeps only the most likely token; a temperature of 0 means 1 there
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


def most_embedding_bytes(texts: int, dimensions: int = MOST_DIMENSIONS) -> int:
    """How long an answer with the vectors of this many texts may be."""
    return ANSWER_BYTES + texts * (dimensions * BYTES_PER_NUMBER + BYTES_PER_TOKEN)
