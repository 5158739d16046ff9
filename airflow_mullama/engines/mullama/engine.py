"""The engine over the Python bindings of mullama (https://github.com/Skelf-Research/mullama), for those who build them.

The bindings are young. What they do on their own is listed in ``docs/engines/mullama.md``, each with what this adapter
does about it; written against the source of 0.1.0. None of their calls lets another thread run, so a worker process
works on one row at a time, and there are several processes where more is wanted (``n_workers``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mullama.engines.base import (
    CannotCountError,
    Embedding,
    EngineInfo,
    EngineSettings,
    Generation,
    Outcome,
    Request,
)
from airflow_mullama.engines.chat_template import render_chat_template
from airflow_mullama.engines.llamacpp.memory import most_at_load
from airflow_mullama.engines.model_checks import check_embedding_model, check_generation_model
from airflow_mullama.engines.model_prompts import model_prompt
from airflow_mullama.engines.mullama.bindings import import_bindings, installed_version
from airflow_mullama.engines.mullama.embeddings import Embedder, Vector, check_pooling, choose_embedder
from airflow_mullama.engines.mullama.settings import CHECKS, OUTPUT_OPTIONS, MullamaSettings, choose_settings
from airflow_mullama.engines.prompt_frames import row_prompts
from airflow_mullama.engines.prompt_tokens import NO_ARGUMENTS
from airflow_mullama.engines.reasoning import Reasoning, bare_answer, split_pieces, without_answer
from airflow_mullama.engines.registry import EngineSpec, find_gguf
from airflow_mullama.engines.sampling import Sampling
from airflow_mullama.engines.second_try import temperature_to_use
from airflow_mullama.engines.stop_texts import cut_at_stop
from airflow_mullama.errors import ConfigurationError, ModelLoadError
from airflow_mullama.models.gguf_header import GgufHeader, read_gguf_header
from airflow_mullama.rows import ErrorType, RowError

if TYPE_CHECKING:
    from airflow_mullama.models.resolve import Model

# A text this long is never tokenized to find out that it is too long.
LEAST_REFUSED_BYTES = 1_000_000
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# llama.cpp's own default, in tokens of the answer.
PENALTY_WINDOW = 64
# Rows prepared ahead of the one that is computed.
WINDOW = 8
# What the bindings raise: RuntimeError for nearly all, the others for arguments.
BINDING_ERRORS = (RuntimeError, ValueError, TypeError, OverflowError)
# Versions whose sampler takes note of each token twice.
COUNTS_TOKENS_TWICE = frozenset({"0.1.0"})


class MullamaTokenizer:
    """The model's tokenizer and chat template, as prompts need them."""

    def __init__(self, model: Any, header: GgufHeader) -> None:
        self._model = model
        self._header = header

    def tokenize(self, content: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of a text."""
        return list(self._model.tokenize(content, add_special, parse_special))

    def tokenize_each(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of plain texts, each by itself."""
        return [self.tokenize(text) for text in texts]

    def render_chat(self, messages: Sequence[dict[str, str]], arguments: Mapping[str, Any] = NO_ARGUMENTS) -> str:
        """The model's own template: ``apply_chat_template`` of the bindings takes the most similar one of a list."""
        return render_chat_template(self._header, messages, arguments)


class MullamaEngine:
    """A model loaded by the bindings, and one context that is cleared before every row."""

    rows_per_call = 1

    def __init__(self, settings: EngineSettings) -> None:
        header = read_gguf_header(Path(settings.model))
        mullama = import_bindings()
        self._mullama: Any = mullama
        self._settings = settings
        self._chosen = choose_settings(settings, header, sees_gpu=bool(mullama.supports_gpu_offload()))
        self._version = installed_version(mullama)
        self._model = _load_model(mullama, settings.model, self._chosen)
        if self._model.n_embd != header.embedding_length and settings.task == "embed":
            raise ModelLoadError(
                f"mullama says that vectors of {settings.model!r} have {self._model.n_embd} numbers, and its file says "
                f"{header.embedding_length}; use engine='llamacpp'."
            )
        self._tokenizer = MullamaTokenizer(self._model, header)
        self._refused_bytes = max(LEAST_REFUSED_BYTES, self._chosen.n_ctx * header.longest_token_bytes)
        self._limit = self._chosen.n_ctx
        notes = list(self._chosen.notes)
        chat = False
        if settings.task == "embed":
            self._previous: tuple[list[int], Vector] | None = None
            self._embedder = self._choose_embedder(header)
            self._limit = min(self._limit, self._embedder.limit)
            notes.append(f"vectors come from {self._embedder.name}, which passed its trial")
        else:
            self._limit -= 1  # a place to answer in
            self._prompt = model_prompt(self._tokenizer, header, settings.settings)
            chat, self._frame = self._prompt.chat, self._prompt.frame
            self._prompts = row_prompts(self._tokenizer, header, self._frame)
            self._context = self._make_context()
            notes += [*self._prompt.notes, *_notes_on_generation(settings)]
        self.info = EngineInfo(
            engine="mullama",
            version=self._version,
            n_parallel=1,
            calls=1,
            window=WINDOW,
            n_ctx=self._chosen.n_ctx,
            dimensions=header.embedding_length if settings.task == "embed" else None,
            chat=chat,
            devices=("GPU 0",) if self._chosen.n_gpu_layers else ("CPU",),
            constrained=False if settings.settings.get("output_schema") else None,
            notes=tuple(notes),
            text_tokens=self._limit if settings.task == "embed" else None,
        )

    def close(self) -> None:
        """Nothing is to be done: the bindings free a model when nothing refers to it any more."""

    def _make_context(self) -> Any:
        chosen = self._chosen
        return self._mullama.Context(
            self._model, n_ctx=chosen.n_ctx, n_batch=chosen.n_batch, n_threads=chosen.n_threads
        )

    def _choose_embedder(self, header: GgufHeader) -> Embedder:
        chosen = self._chosen
        return choose_embedder(
            self._mullama,
            self._model,
            header,
            self._settings.settings.get("pooling"),
            n_ctx=chosen.n_ctx,
            n_batch=chosen.n_batch,
            n_threads=chosen.n_threads,
        )

    # -- preparing ---------------------------------------------------------------------------------------------------

    def prepare(self, requests: Sequence[Request]) -> list[Request | RowError]:
        return [self._prepare(request) for request in requests]

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        return [len(self._tokens(self._takable(request))) for request in requests]

    def _takable(self, request: Request) -> Request:
        """A request that the bindings take.

        Raises:
            CannotCountError: they do not.
        """
        if (refusal := self._refuse_text(request.text)) is not None:
            raise CannotCountError(refusal)
        return request

    def _prepare(self, request: Request) -> Request | RowError:
        refusal = self._refuse_text(request.text)
        if refusal is not None:
            return refusal
        try:
            request.tokens = self._tokens(request)
        except ModelLoadError as error:  # the template takes no such text
            return RowError(ErrorType.RENDER_ERROR, str(error))
        except BINDING_ERRORS as error:
            return _engine_error(error)
        return self._refuse_length(len(request.tokens)) or request

    def _refuse_text(self, text: str) -> RowError | None:
        """What the bindings cannot take, or would take 20 seconds to find too long."""
        if "\0" in text:
            return RowError(
                ErrorType.RENDER_ERROR,
                "the text holds a NUL character, which the engine 'mullama' cannot take: remove it, or use "
                "engine='llamacpp'",
            )
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            return RowError(ErrorType.RENDER_ERROR, f"the text is not valid Unicode ({error.reason})")
        if size <= self._refused_bytes:
            return None
        return RowError(
            ErrorType.PROMPT_TOO_LONG,
            f"the request has {size:,} bytes, more than the {self._chosen.n_ctx} tokens of n_ctx can hold: "
            f"{self._remedy}",
        )

    def _tokens(self, request: Request) -> list[int]:
        if self._settings.task == "embed":
            return self._tokenizer.tokenize(request.text, add_special=True)
        repair_prompt = bool(self._settings.settings.get("repair_prompt"))
        (middle,) = self._prompts.of([self._frame.ask(request, repair_prompt=repair_prompt)])
        return self._frame.head + middle + self._frame.tail

    def _refuse_length(self, count: int) -> RowError | None:
        if count == 0:
            return RowError(ErrorType.EMPTY_INPUT, "the request has no text and the model adds no tokens of its own")
        if count > self._limit:
            return RowError(
                ErrorType.PROMPT_TOO_LONG,
                f"the request has {count} tokens and a row may use {self._limit} (n_ctx {self._chosen.n_ctx}): "
                f"{self._remedy}",
            )
        return None

    @property
    def _remedy(self) -> str:
        """Against a text that is too long."""
        if self._settings.task == "embed":
            return "set chunking= to have a vector of each part, or raise n_ctx if the model takes more"
        return "shorten the text or raise n_ctx"

    # -- computing ---------------------------------------------------------------------------------------------------

    def run(self, requests: Sequence[Request]) -> list[Outcome]:
        compute = self._embed if self._settings.task == "embed" else self._generate
        return [compute(request) for request in requests]

    def _generate(self, request: Request) -> Outcome:
        tokens = request.tokens or []
        most = self._most_tokens(len(tokens))
        self._clear()
        try:
            # Its list has one text for each token: from it come the counts, and why the answer ended. Despite its name
            # it returns when all is done.
            pieces = self._context.generate_stream(tokens, most, self._sampler_params(request))
        except BINDING_ERRORS as error:
            self._clear()
            return _engine_error(error)
        return self._answer(request, pieces, most)

    def _clear(self) -> None:
        """Forget the row before: the bindings would go on where it ended."""
        self._context.clear_cache()

    def _most_tokens(self, prompt_tokens: int) -> int:
        """Beyond the context's end the bindings raise, and what was written is lost."""
        return min(int(self._settings.settings["max_tokens"]), self._chosen.n_ctx - prompt_tokens)

    def _answer(self, request: Request, pieces: Sequence[str], most: int) -> Outcome:
        tags = self._prompt.tags
        thought, written, thinking = split_pieces(pieces, tags, inside=self._prompt.begins_inside)
        text, count, stopped = cut_at_stop(written, self._settings.sampling.stop)
        if thinking and tags is not None:
            text = bare_answer(text, tags)
        cut = not stopped and len(pieces) >= most
        if cut:
            text = self._without_broken_end(text)
        if self._has_broken_characters(request.text, text):
            return RowError(
                ErrorType.UNDECODABLE_TEXT,
                "the answer holds a character that takes several tokens, and the mullama bindings lose such "
                "characters: use engine='llamacpp'",
            )
        # The token that ends an answer counts, as it does in every engine; the bindings keep it to themselves.
        ended = 0 if cut or stopped else 1
        generation = Generation(
            text,
            "length" if cut else "stop",
            len(request.tokens or ()),
            thinking + count + ended,
            reasoning=thought.reasoning,
            reasoning_tokens=thinking or None,
        )
        if thought.answer is None:
            return without_answer(
                generation, cut=cut, remedy="raise max_tokens, which is for both, and n_ctx if need be"
            )
        return generation

    @staticmethod
    def _without_broken_end(text: str) -> str:
        return text.rstrip(REPLACEMENT)

    @staticmethod
    def _has_broken_characters(request: str, answer: str) -> bool:
        """A replacement character that the request had may be repeated; others stand for characters that were lost."""
        return answer.count(REPLACEMENT) > request.count(REPLACEMENT)

    def _sampler_params(self, request: Request) -> Any:
        sampling = self._settings.sampling
        temperature = temperature_to_use(request, sampling.temperature)
        counted = 2 if self._version in COUNTS_TOKENS_TWICE else 1
        greedy = is_greedy(temperature)
        return self._mullama.SamplerParams(
            temperature=1.0 if greedy else temperature,
            # For the bindings a temperature of 0 means 1: only a choice of one is greedy.
            top_k=1 if greedy else sampling.top_k,
            top_p=1.0 if greedy else sampling.top_p,
            min_p=0.0 if greedy else sampling.min_p,
            typical_p=1.0,
            penalty_repeat=sampling.repeat_penalty,
            penalty_freq=sampling.frequency_penalty / counted,
            penalty_present=sampling.presence_penalty,
            penalty_last_n=PENALTY_WINDOW * counted,
            seed=sampling.row_seed(request.text, request.attempt, request.answer),
        )

    def _embed(self, request: Request) -> Outcome:
        tokens = list(request.tokens or ())
        try:
            vector = self._embedder.embed(request.text, tokens)
        except BINDING_ERRORS as error:
            return _engine_error(error)
        if self._is_stale(tokens, vector):
            return RowError(ErrorType.ENGINE_ERROR, "mullama gave this text the vector of the text before it")
        self._previous = tokens, vector
        return Embedding(vector, len(tokens))

    def _is_stale(self, tokens: list[int], vector: Vector) -> bool:
        return self._previous is not None and tokens != self._previous[0] and np.array_equal(vector, self._previous[1])


def is_greedy(temperature: float) -> bool:
    """Whether a temperature is 0, also once the bindings have made it a 32 bit number."""
    return float(np.float32(temperature)) == 0.0


def _load_model(mullama: Any, path: str, chosen: MullamaSettings) -> Any:
    try:
        return mullama.Model.load(str(path), n_gpu_layers=chosen.n_gpu_layers)
    except BINDING_ERRORS as error:
        raise ModelLoadError(
            f"mullama could not load {path!r} with n_gpu_layers {chosen.n_gpu_layers} ({error}); its llama.cpp may be "
            "older than the model's kind, or the memory too small."
        ) from error


def _notes_on_generation(settings: EngineSettings) -> list[str]:
    """What this engine lacks of what the job asks for."""
    notes = []
    if settings.settings.get("output_schema"):
        notes.append(
            "mullama cannot hold decoding to an output schema: answers are checked, and asked again if they break it"
        )
    if settings.settings.get("labels"):
        notes.append("mullama tells no probabilities: the confidence column stays null")
    sampling: Sampling = settings.sampling
    if (sampling.repeat_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (1.0, 0.0, 0.0):
        notes.append("with mullama, penalties look at the answer only, not at the prompt")
    if sampling.stop:
        notes.append("mullama knows no stop texts: answers are cut there when they are finished, which saves no time")
    return notes


def _engine_error(error: Exception) -> RowError:
    return RowError(ErrorType.ENGINE_ERROR, f"mullama: {error}")


def check_model(task: str, settings: Mapping[str, Any], options: Mapping[str, Any], model: Model) -> None:
    """Refuse a model that the bindings crash on or answer nonsense with."""
    _check_weights(model.header, model.name)
    if task == "generate":
        check_generation_model(settings, model.header, model.name)
        if Reasoning.of(settings).max_tokens is not None:
            raise ConfigurationError(
                "The mullama bindings cannot go on behind a thought that was ended: leave max_reasoning_tokens out, or "
                "use engine='llamacpp'."
            )
    else:
        check_embedding_model(settings, model.header, model.name)
        check_pooling(model.header, settings.get("pooling"), model.name)


def _check_weights(header: GgufHeader, model: str) -> None:
    if header.tensor_count == 0 and int(header.metadata.get("split.count") or 0) <= 1:
        raise ConfigurationError(
            f"The model {model!r} holds a vocabulary and no weights, which ends mullama's process: take a whole model."
        )
    if header.has_encoder_and_decoder:
        raise ConfigurationError(
            f"The model {model!r} ({header.architecture}) has an encoder and a decoder, which the mullama bindings "
            "cannot run: take a decoder-only model."
        )


def load_memory(settings: EngineSettings) -> int | None:
    """Bytes that a process loading this model may have of its own."""
    model = Path(settings.model)
    header = read_gguf_header(model)
    tokens = choose_settings(replace(settings, require_gpu=False), header, sees_gpu=False).n_ctx
    return most_at_load(header, settings.options, model.stat().st_size, tokens)


SPEC = EngineSpec(
    name="mullama",
    package="mullama",
    install="build its Python bindings, as docs/engines/mullama.md says",
    find_model=find_gguf,
    start=MullamaEngine,
    checks=CHECKS,
    output_options=OUTPUT_OPTIONS,
    check_model=check_model,
    holds_gil=True,
    load_memory=load_memory,
)
