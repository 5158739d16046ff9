"""The default engine: llama.cpp's own server engine, in process, through the package ``xllamacpp``.

Rows are independent requests of a continuous batch: ``n_parallel`` slots share every evaluation. ``n_ctx`` is what one
row may use; llama.cpp's total, which it divides by its slots, is ``n_ctx * n_parallel``.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mullama.arguments import refuse_url
from airflow_mullama.engines.base import Embedding, EngineInfo, EngineSettings, Outcome, Request, cut
from airflow_mullama.engines.chat_template import EndlessTemplateGuard, try_template
from airflow_mullama.engines.llamacpp.completions import Completions, row_error
from airflow_mullama.engines.llamacpp.constraint import Constraint, find_constraint
from airflow_mullama.engines.llamacpp.generation import Generator
from airflow_mullama.engines.llamacpp.http_completions import HttpCompletions
from airflow_mullama.engines.llamacpp.label_scores import LabelScores
from airflow_mullama.engines.llamacpp.local_server import LocalServer
from airflow_mullama.engines.llamacpp.memory import most_at_load
from airflow_mullama.engines.llamacpp.picture_prompts import PicturePrompts
from airflow_mullama.engines.llamacpp.settings import (
    CHECKS,
    OUTPUT_OPTIONS,
    ServerSettings,
    choose_settings,
    devices_words,
    most_context_tokens,
)
from airflow_mullama.engines.llamacpp.thoughts import Thoughts
from airflow_mullama.engines.model_checks import check_embedding_model, check_generation_model
from airflow_mullama.engines.model_prompts import model_prompt
from airflow_mullama.engines.prompt_frames import plain_frame, row_prompts
from airflow_mullama.engines.prompt_tokens import Part, SpecialTokens
from airflow_mullama.engines.reasoning import Reasoning
from airflow_mullama.engines.registry import EngineSpec, find_gguf
from airflow_mullama.engines.tokenizer_file import load_tokenizer
from airflow_mullama.errors import ConfigurationError, ModelLoadError
from airflow_mullama.models.gguf_header import GgufHeader, read_gguf_header
from airflow_mullama.models.names import split_names
from airflow_mullama.models.vocabulary import token_texts
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.schemas import OutputSchema

if TYPE_CHECKING:
    from airflow_mullama.models.resolve import Model

# A text this long is never tokenized to find out that it is too long: 50 MB would take 20 seconds.
LEAST_REFUSED_BYTES = 1_000_000
# llama.cpp listens on a socket file only if its name ends like this; anything else would be a host's name.
SOCKET_NAME = "engine.sock"


class LlamaCppEngine:
    """A running xllamacpp server inside the worker process."""

    def __init__(self, settings: EngineSettings) -> None:
        import xllamacpp

        header = read_gguf_header(Path(settings.model))
        self._settings = settings
        guard = EndlessTemplateGuard(header)
        if _uses_template(settings):
            guard.try_template()  # llama.cpp runs it while it loads, for as long as it likes
        self._chosen = choose_settings(settings, header, xllamacpp.get_device_info(), _weights(settings))
        assert settings.scratch is not None
        socket_path, api_key = os.path.join(settings.scratch, SOCKET_NAME), secrets.token_hex(16)
        parameters = _common_params(xllamacpp, settings, self._chosen)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(socket_path)  # of an engine that was started before in this process
        parameters.hostnames = [socket_path]
        parameters.api_keys = [api_key]
        try:
            self._server = xllamacpp.Server(parameters)
        except (RuntimeError, ValueError) as error:
            if _uses_template(settings):
                try_template(header)  # llama.cpp tries it too, and fails without a reason
            raise ModelLoadError(
                f"llama.cpp could not load {settings.model!r} with n_ctx {self._chosen.n_ctx}, n_parallel "
                f"{self._chosen.n_parallel}, n_gpu_layers {self._chosen.n_gpu_layers} ({error}); a smaller n_ctx or "
                "n_parallel needs less memory."
            ) from error
        self._trained = header.context_length
        self._http = LocalServer(socket_path, api_key)
        self._http.wait_until_it_works()
        self._http.check_conversations(guard.check)
        self._http_of_answers: LocalServer | None = None
        self._http.use_separator(_control_tokens(header))
        generates = settings.task == "generate"
        self._prompt_of_model = model_prompt(self._http, header, settings.settings) if generates else None
        self._frame = self._prompt_of_model.frame if self._prompt_of_model else plain_frame(self._http)
        self._prompts = row_prompts(self._http, header, self._frame)
        self._picture_prompts = self._make_picture_prompts(header) if settings.projector else None
        over_http = HttpCompletions(self._http, settings.row_timeout) if settings.projector else None
        self._completions = over_http or Completions(self._server, settings.row_timeout)
        self._refused_bytes = max(LEAST_REFUSED_BYTES, self._chosen.n_ctx * header.longest_token_bytes)
        self._tokenizer = load_tokenizer(settings.options.get("tokenizer") or settings.tokenizer)
        self._truncates = settings.settings.get("truncate") == "end"
        self._limit = self._find_limit()
        self.rows_per_call = self._chosen.rows_per_call
        recorded = settings.settings.get("output_schema")
        self._constraint = self._find_constraint(OutputSchema.from_json(recorded), header) if recorded else None
        self._generator = self._make_generator(header) if generates else None
        self.info = EngineInfo(
            engine="llamacpp",
            version=importlib.metadata.version("xllamacpp"),
            n_parallel=self._chosen.n_parallel,
            calls=self._chosen.calls,
            window=4 * self._chosen.calls * self._chosen.rows_per_call,
            n_ctx=self._chosen.n_ctx,
            dimensions=header.embedding_length if settings.task == "embed" else None,
            chat=self._prompt_of_model is not None and self._prompt_of_model.chat,
            devices=devices_words(xllamacpp.get_device_info(), self._chosen.n_gpu_layers),
            constrained=None if self._constraint is None else self._constraint.held,
            notes=(
                *self._chosen.notes,
                *(self._prompt_of_model.notes if self._prompt_of_model else ()),
                *(self._constraint.notes if self._constraint else ()),
            ),
            text_tokens=self._limit,
            tokens_per_call=self._chosen.tokens_per_call,
            settings=self._chosen.words,
        )

    def close(self) -> None:
        """Free the model's memory; the worker process just ends instead."""
        self._http.close()
        self._completions.close()
        if self._http_of_answers is not None:
            self._http_of_answers.close()
        self._generator = None
        del self._completions, self._server

    def _make_picture_prompts(self, header: GgufHeader) -> PicturePrompts:
        properties = self._http.properties()
        if not properties.get("modalities", {}).get("vision"):
            raise ConfigurationError(
                f"mmproj {self._settings.projector!r} was loaded, and llama.cpp sees no pictures with it: take the "
                "projector that is published beside the model."
            )
        before = SpecialTokens.of(self._http).before
        begins = "" if self._frame.head else "".join(header.special_tokens.get(token, "") for token in before)
        return PicturePrompts(properties["media_marker"], header, begins)

    def _make_generator(self, header: GgufHeader) -> Generator:
        assert self._prompt_of_model is not None
        prompt, thoughts = self._prompt_of_model, None
        if prompt.tags is not None:
            most = Reasoning.of(self._settings.settings).max_tokens
            # A connection of its own: rows are answered while others are prepared.
            self._http_of_answers = self._http.another()
            tokenize = self._http_of_answers.tokenize
            thoughts = Thoughts(prompt, prompt.tags, header, tokenize, most, self._chosen.n_ctx)
        labels, scores = self._settings.settings.get("labels"), None
        if labels:
            scores = LabelScores(labels["field"], labels["all"], token_texts(Path(self._settings.model), header))
        constraint = self._constraint.fields if self._constraint else {}
        return Generator(self._completions, self._settings, constraint, scores, thoughts)

    def _find_constraint(self, schema: OutputSchema, header: GgufHeader) -> Constraint:
        prompt = self._http.tokenize("Hello", add_special=True)
        return find_constraint(schema, header, lambda body: self._completions.ask({**body, "prompt": prompt}, None))

    def _find_limit(self) -> int:
        """Tokens of the longest request."""
        # What is taken in pieces needs one free place in its slot, to answer in.
        limit = min(self._chosen.n_ctx, self._chosen.slot_tokens - self._chosen.in_pieces)
        if self._tokenizer is None or self._settings.task == "generate":
            return limit
        # A model's makers may cut well before the end of its positions.
        limit = min(limit, int((self._tokenizer.truncation or {}).get("max_length", limit)))
        if self._truncates:
            self._tokenizer.enable_truncation(limit)
        else:
            self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        return limit

    # -- preparing ---------------------------------------------------------------------------------------------------

    def prepare(self, requests: Sequence[Request]) -> list[Request | RowError]:
        prompts = [self._refuse_by_size(request) or self._prompt(request) for request in requests]
        pairs = list(zip(requests, prompts, strict=True))
        plain = [prompt for request, prompt in pairs if not (isinstance(prompt, RowError) or request.pictures)]
        tokenized = iter(self._tokenize(plain))
        return [
            prompt
            if isinstance(prompt, RowError)
            else self._with_pictures(request, prompt)
            if request.pictures
            else self._checked(request, *next(tokenized))
            for request, prompt in pairs
        ]

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        return [len(tokens) for tokens, _ in self._tokenize([self._frame.prompt(each.parts) for each in requests])]

    def shown_prompt(self, request: Request) -> str:
        """What the model gets, with its special tokens; asked by the thread that prepares."""
        if self._picture_prompts is not None and request.prompt_text is not None:
            return self._picture_prompts.shown(request.prompt_text)
        return self._http.detokenize(request.tokens or ())

    def _prompt(self, request: Request) -> list[Part] | RowError:
        """As much of a request as is tokenized, in its frame."""
        if self._truncates:  # always more than the model reads
            return self._frame.prompt(cut(request.parts, 0, self._refused_bytes))
        shown = self._picture_prompts.markers(request.pictures) if self._picture_prompts else ""
        repair_prompt = bool(self._settings.settings.get("repair_prompt"))
        try:
            return self._frame.ask(request, repair_prompt=repair_prompt, pictures=shown)
        except ModelLoadError as error:  # the template takes no such text
            return RowError(ErrorType.RENDER_ERROR, str(error))

    def _with_pictures(self, request: Request, prompt: list[Part]) -> Request | RowError:
        """The server tokenizes it and knows how many tokens a picture takes; it refuses what is too long."""
        assert self._picture_prompts is not None
        text = self._picture_prompts.text_of(prompt)
        if isinstance(text, RowError):
            return text
        request.prompt_text = text
        return request

    def _refuse_by_size(self, request: Request) -> RowError | None:
        size = len(request.text) if request.text.isascii() else len(request.text.encode("utf-8", "replace"))
        if size <= self._refused_bytes or self._truncates:
            return None
        return RowError(
            ErrorType.PROMPT_TOO_LONG,
            f"the request has {size:,} bytes, more than the {self._chosen.n_ctx} tokens of n_ctx can hold: "
            f"{self._remedy}",
        )

    def _tokenize(self, prompts: Sequence[list[Part]]) -> list[tuple[list[int], bool]]:
        """Each prompt's token ids, and whether they were cut at the limit."""
        if self._tokenizer is not None:
            plain = ["".join(text for text, _ in parts) for parts in prompts]
            encodings = self._tokenizer.encode_batch(plain, add_special_tokens=True)
            return [(encoding.ids, bool(encoding.overflowing)) for encoding in encodings]
        frame = self._frame
        middles = self._prompts.of(prompts)
        if not self._truncates:
            return [(frame.head + middle + frame.tail, False) for middle in middles]
        # What stands around a text stays: an encoder's [SEP], a decoder's end of text.
        room = max(0, self._limit - len(frame.head) - len(frame.tail))
        return [(frame.head + middle[:room] + frame.tail, len(middle) > room) for middle in middles]

    def _checked(self, request: Request, tokens: list[int], truncated: bool) -> Request | RowError:
        if not tokens:
            return RowError(ErrorType.EMPTY_INPUT, "the request has no text and the model adds no tokens of its own")
        if len(tokens) <= self._limit:
            request.tokens = tokens
            request.truncated = truncated or (self._truncates and len(request.text) > self._refused_bytes)
            return request
        by_tokenizer = self._limit < self._chosen.n_ctx - 1
        whose = "the model's tokenizer" if by_tokenizer else f"n_ctx {self._chosen.n_ctx}"
        return RowError(
            ErrorType.PROMPT_TOO_LONG,
            f"the request has {len(tokens)} tokens and a row may use {self._limit} ({whose}): {self._remedy}",
        )

    @property
    def _remedy(self) -> str:
        """Against a text that is too long."""
        if self._settings.task == "embed":
            return "set chunking= to have a vector of each part, or truncate='end' for one of the beginning"
        if self._chosen.n_ctx == self._trained:
            return f"shorten the text; the model was made for {self._trained} tokens and takes no more"
        return "shorten the text or raise n_ctx"

    # -- computing ---------------------------------------------------------------------------------------------------

    def run(self, requests: Sequence[Request]) -> list[Outcome]:
        if self._settings.task == "embed":
            return self._embed(requests)
        assert self._generator is not None
        return [self._generator.generate(request) for request in requests]

    def _embed(self, requests: Sequence[Request]) -> list[Outcome]:
        answer = self._server.handle_embeddings(
            {"input": [request.tokens for request in requests], "encoding_format": "base64", "embd_normalize": -1}
        )
        if "error" in answer:
            if len(requests) == 1:
                return [row_error(answer)]
            return [self._embed([request])[0] for request in requests]  # one bad text must not cost its neighbours
        vectors: list[Outcome] = []
        by_index = sorted(answer["data"], key=lambda item: int(item["index"]))
        for request, item in zip(requests, by_index, strict=True):
            vector = np.frombuffer(base64.b64decode(item["embedding"]), np.float32)
            vectors.append(Embedding(vector, len(request.tokens or ()), request.truncated))
        return vectors


def _control_tokens(header: GgufHeader) -> dict[int, str]:
    """Texts by id of tokens that most vocabularies have for control alone."""
    keys = ("eos_token_id", "bos_token_id", "seperator_token_id", "padding_token_id")
    tokens = [header.metadata.get(f"tokenizer.ggml.{key}") for key in keys]
    return {token: header.special_tokens[token] for token in tokens if token in header.special_tokens}


def _size(model: str) -> int:
    path = Path(model)
    return sum(path.with_name(name).stat().st_size for name in split_names(path.name))


def _weights(settings: EngineSettings) -> int:
    """Bytes of the model and its projector."""
    return _size(settings.model) + (os.path.getsize(settings.projector) if settings.projector else 0)


def _uses_template(settings: EngineSettings) -> bool:
    return settings.task == "generate" and settings.settings.get("chat") is not False


def _common_params(xllamacpp: Any, settings: EngineSettings, chosen: ServerSettings) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = settings.model
    parameters.n_ctx = chosen.slot_tokens * chosen.n_parallel
    parameters.n_parallel = chosen.n_parallel
    parameters.n_batch = chosen.n_batch
    parameters.n_ubatch = chosen.n_ubatch
    parameters.n_gpu_layers = chosen.n_gpu_layers
    parameters.cpuparams.n_threads = chosen.n_threads
    parameters.cpuparams_batch.n_threads = chosen.n_threads
    parameters.fit_params = False  # it would quietly change what was asked for
    parameters.cache_ram_mib = 0  # whole earlier prompts are not asked again; memory stays flat
    parameters.warmup = False
    parameters.endpoint_slots = False
    parameters.ui = False
    parameters.n_threads_http = 3
    if settings.projector:
        parameters.mmproj.path = settings.projector
        parameters.mmproj_use_gpu = chosen.n_gpu_layers != 0
        parameters.n_threads_http += chosen.calls  # over which rows are answered
        # What it cannot decode itself it would hand to ffmpeg, whatever a row's bytes are: none is found here.
        if hasattr(parameters, "video_ffmpeg_bin_dir"):
            parameters.video_ffmpeg_bin_dir = settings.scratch
    if not _uses_template(settings):
        parameters.chat_template = "chatml"  # of its own, so that the model's may be broken
    parameters.verbosity = 2  # warnings and errors
    parameters.lora_adapters = [_adapter(xllamacpp, path, scale) for path, scale in settings.adapters]
    options = settings.options
    if "main_gpu" in options:
        parameters.main_gpu = options["main_gpu"]
    if "flash_attn" in options:
        flash = xllamacpp.llama_flash_attn_type
        enabled = options["flash_attn"]
        parameters.flash_attn_type = (
            flash.LLAMA_FLASH_ATTN_TYPE_ENABLED if enabled else flash.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
    for name in ("cache_type_k", "cache_type_v"):
        if name in options:
            setattr(parameters, name, getattr(xllamacpp.ggml_type, "GGML_TYPE_" + options[name].upper()))
    if settings.task == "embed":
        parameters.embedding = True
        # With a cache for each slot, llama.cpp mixes up the token vectors of texts that share a batch.
        parameters.kv_unified = not chosen.in_pieces
        if pooling := settings.settings.get("pooling"):
            parameters.pooling_type = getattr(xllamacpp.llama_pooling_type, "LLAMA_POOLING_TYPE_" + pooling.upper())
    return parameters


def _adapter(xllamacpp: Any, path: str, scale: float) -> Any:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = path, scale
    return adapter


def check_model(task: str, settings: Mapping[str, Any], options: Mapping[str, Any], model: Model) -> None:
    """Refuse a model that cannot do the task, before it is loaded."""
    if tokenizer := options.get("tokenizer"):
        if task == "generate":
            raise ConfigurationError(
                "engine_options['tokenizer'] is for embedding; leave it out: generation uses the model's own tokenizer."
            )
        refuse_url("engine_options['tokenizer']", tokenizer)
        if not os.path.isfile(tokenizer):
            raise ConfigurationError(f"engine_options['tokenizer'] is {tokenizer!r}, and there is no such file.")
    if task == "generate":
        check_generation_model(settings, model.header, model.name)
    else:
        check_embedding_model(settings, model.header, model.name)


def load_memory(settings: EngineSettings) -> int | None:
    """Bytes that a process loading this model may have of its own."""
    header = read_gguf_header(Path(settings.model))
    tokens = most_context_tokens(settings, header)
    adapters = sum(os.path.getsize(path) for path, _ in settings.adapters)
    return most_at_load(header, settings.options, _weights(settings) + adapters, tokens)


SPEC = EngineSpec(
    name="llamacpp",
    package="xllamacpp",
    install="pip install xllamacpp",
    find_model=find_gguf,
    start=LlamaCppEngine,
    checks=CHECKS,
    output_options=OUTPUT_OPTIONS,
    check_model=check_model,
    truncates=True,
    takes_adapters=True,
    takes_pictures=True,
    needs_projector=True,
    tells_logprobs=True,
    needs_scratch=True,
    load_memory=load_memory,
)
