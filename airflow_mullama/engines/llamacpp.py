"""The default engine: llama.cpp's own server engine, in process, through the package ``xllamacpp``.

Rows are independent requests of a continuous batch: ``n_parallel`` slots share every evaluation. ``n_ctx`` is what one
row may use; llama.cpp's total, which it divides by its slots, is ``n_ctx * n_parallel``.
"""

from __future__ import annotations

import base64
import importlib.metadata
import os
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from airflow_mullama.engines.base import Embedding, EngineInfo, EngineSettings, Generation, Outcome, Request
from airflow_mullama.engines.label_confidence import TOP_TOKENS, label_confidence
from airflow_mullama.engines.llamacpp_http import LocalServer
from airflow_mullama.engines.llamacpp_settings import (
    CHECKS,
    OUTPUT_OPTIONS,
    ServerSettings,
    choose_settings,
    devices_words,
)
from airflow_mullama.engines.model_checks import check_embedding_model, check_generation_model
from airflow_mullama.engines.prompt_frames import (
    Frame,
    SpecialTokens,
    chat_frame,
    completion_frame,
    plain_pieces,
)
from airflow_mullama.engines.registry import EngineSpec
from airflow_mullama.engines.second_try import temperature_to_use, text_to_ask
from airflow_mullama.engines.tokenizer_file import load_tokenizer
from airflow_mullama.errors import ConfigurationError, ModelLoadError
from airflow_mullama.models.gguf_header import GgufHeader, read_gguf_header
from airflow_mullama.models.resolve import split_names
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.schemas import OutputSchema, llama_cpp_schema

# A text this long is never tokenized to find out that it is too long: 50 MB would take 20 seconds.
LEAST_REFUSED_BYTES = 1_000_000
# llama.cpp listens on a socket file only if its name ends so; anything else would be a host's name.
SOCKET_NAME = "engine.sock"


class LlamaCppEngine:
    """A running xllamacpp server inside the worker process."""

    def __init__(self, settings: EngineSettings) -> None:
        import xllamacpp

        header = read_gguf_header(Path(settings.model))
        self._settings = settings
        self._chosen = choose_settings(settings, header, xllamacpp.get_device_info(), _size(settings.model))
        folder = settings.scratch or tempfile.mkdtemp(prefix="airflow-mullama-")
        socket_path, api_key = os.path.join(folder, SOCKET_NAME), secrets.token_hex(16)
        parameters = _common_params(xllamacpp, settings, self._chosen)
        parameters.hostnames = [socket_path]
        parameters.api_keys = [api_key]
        try:
            self._server = xllamacpp.Server(parameters)
        except (RuntimeError, ValueError) as error:
            raise ModelLoadError(
                f"llama.cpp could not load {settings.model!r} with n_ctx {self._chosen.n_ctx}, n_parallel "
                f"{self._chosen.n_parallel}, n_gpu_layers {self._chosen.n_gpu_layers} ({error}); a smaller n_ctx or "
                "n_parallel needs less memory."
            ) from error
        self._http = LocalServer(socket_path, api_key)
        self._frame = self._make_frame(header)
        self._separator = self._find_separator(header)
        self._refused_bytes = max(LEAST_REFUSED_BYTES, self._chosen.n_ctx * header.longest_token_bytes)
        self._tokenizer = load_tokenizer(settings.options.get("tokenizer") or settings.tokenizer)
        self._truncates = settings.settings.get("truncate") == "end"
        self._limit = self._find_limit()
        self.rows_per_call = self._chosen.rows_per_call
        recorded = settings.settings.get("output_schema")
        self._output_schema = OutputSchema.from_json(recorded) if recorded else None
        self._labels: Mapping[str, Any] | None = settings.settings.get("labels")
        self._completion = self._completion_body() if settings.task == "generate" else {}
        self.info = EngineInfo(
            engine="llamacpp",
            version=importlib.metadata.version("xllamacpp"),
            n_parallel=self._chosen.n_parallel,
            calls=self._chosen.calls,
            window=4 * self._chosen.calls * self._chosen.rows_per_call,
            n_ctx=self._chosen.n_ctx,
            dimensions=header.embedding_length if settings.task == "embed" else None,
            chat=settings.task == "generate" and self._uses_chat(header),
            devices=devices_words(xllamacpp.get_device_info(), self._chosen.n_gpu_layers),
            constrained=None if self._output_schema is None else True,
            notes=self._chosen.notes,
            tokens_per_call=self._chosen.tokens_per_call,
            settings=self._chosen.words,
        )

    def close(self) -> None:
        """Free the model's memory. Only without requests in flight; the worker process just ends instead."""
        self._http.close()
        del self._server

    def _uses_chat(self, header: GgufHeader) -> bool:
        chat = self._settings.settings.get("chat")
        return header.chat_template is not None if chat is None else bool(chat)

    def _make_frame(self, header: GgufHeader) -> Frame:
        if self._settings.task == "embed":
            special = SpecialTokens.of(self._http)
            return Frame(head=special.before, tail=special.after)
        system_prompt = self._settings.settings.get("system_prompt")
        if self._uses_chat(header):
            return chat_frame(self._http, header, system_prompt)
        return completion_frame(self._http, system_prompt)

    def _find_separator(self, header: GgufHeader) -> int | None:
        """A control token's id, or ``None`` where the vocabulary has none and texts are tokenized one by one."""
        for key in ("eos_token_id", "bos_token_id", "seperator_token_id", "padding_token_id"):
            token = header.metadata.get(f"tokenizer.ggml.{key}")
            if isinstance(token, int) and token >= 0:
                return token
        return None

    def _find_limit(self) -> int:
        """Tokens of the longest request."""
        if self._settings.task == "generate":
            return self._chosen.n_ctx - 1  # a slot needs one free place to answer in
        if self._tokenizer is None:
            return self._chosen.n_ctx
        # Where a model's makers cut may be well before the end of its positions.
        declared = (self._tokenizer.truncation or {}).get("max_length", self._chosen.n_ctx)
        limit = min(self._chosen.n_ctx, int(declared))
        if self._truncates:
            self._tokenizer.enable_truncation(limit)
        else:
            self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        return limit

    def _completion_body(self) -> dict[str, Any]:
        sampling = self._settings.sampling
        return {
            "max_tokens": self._settings.settings["max_tokens"],
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repeat_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "stop": list(sampling.stop),
            "cache_prompt": True,
            **({"logprobs": TOP_TOKENS} if self._labels else {}),
            **({} if self._output_schema is None else {"json_schema": llama_cpp_schema(self._output_schema)}),
        }

    # -- preparing ---------------------------------------------------------------------------------------------------

    def prepare(self, requests: Sequence[Request]) -> list[Request | RowError]:
        results: list[Request | RowError] = [self._refuse_by_size(request) or request for request in requests]
        good = [request for request in results if isinstance(request, Request)]
        if good:
            repair = bool(self._settings.settings.get("repair_prompt"))
            texts = [self._framed_text(self._readable_part(text_to_ask(request, repair))) for request in good]
            for request, (tokens, truncated) in zip(good, self._tokenize(texts), strict=True):
                request.tokens = tokens
                request.truncated = truncated or self._readable_part(request.text) != request.text
        return [self._checked(result) if isinstance(result, Request) else result for result in results]

    def _refuse_by_size(self, request: Request) -> RowError | None:
        size = len(request.text) if request.text.isascii() else len(request.text.encode("utf-8", "replace"))
        if size <= self._refused_bytes or self._truncates:
            return None
        return RowError(
            ErrorType.PROMPT_TOO_LONG,
            f"the request has {size:,} bytes, more than the {self._chosen.n_ctx} tokens of n_ctx can hold: shorten the "
            "text or raise n_ctx",
        )

    def _readable_part(self, text: str) -> str:
        """As much of a text as is tokenized where it may be cut: always more than the model reads."""
        return text[: self._refused_bytes] if self._truncates else text

    def _framed_text(self, text: str) -> str | list[str]:
        frame = self._frame
        plain = frame.plain_before + (text.strip() if frame.strip else text) + frame.plain_after
        return plain_pieces(plain, frame.guarded) if frame.guarded else plain

    def _tokenize(self, texts: Sequence[str | list[str]]) -> list[tuple[list[int], bool]]:
        """Each text's token ids, and whether they were cut at the limit."""
        if self._tokenizer is not None:
            plain = ["".join(text) if isinstance(text, list) else text for text in texts]
            encodings = self._tokenizer.encode_batch(plain, add_special_tokens=True)
            return [(encoding.ids, bool(encoding.overflowing)) for encoding in encodings]
        frame = self._frame
        if self._separator is None:
            middles = [self._http.tokenize(text) for text in texts]
        else:
            middles = self._http.tokenize_each(texts, self._separator)
        if not self._truncates:
            return [(frame.head + middle + frame.tail, False) for middle in middles]
        # What stands around a text stays: an encoder's [SEP], a decoder's end of text.
        room = max(0, self._limit - len(frame.head) - len(frame.tail))
        return [(frame.head + middle[:room] + frame.tail, len(middle) > room) for middle in middles]

    def _checked(self, request: Request) -> Request | RowError:
        count = len(request.tokens or ())
        if count == 0:
            return RowError(ErrorType.EMPTY_INPUT, "the request has no text and the model adds no tokens of its own")
        if count <= self._limit:
            return request
        if self._settings.task == "embed":
            whose = "n_ctx" if self._limit == self._chosen.n_ctx else "the model's tokenizer"
            remedy = "shorten the text, or set truncate='end'"
        else:
            whose, remedy = f"n_ctx {self._chosen.n_ctx}", "shorten the text or raise n_ctx"
        return RowError(
            ErrorType.PROMPT_TOO_LONG,
            f"the request has {count} tokens and a row may use {self._limit} ({whose}): {remedy}",
        )

    # -- computing ---------------------------------------------------------------------------------------------------

    def run(self, requests: Sequence[Request]) -> list[Outcome]:
        if self._settings.task == "embed":
            return self._embed(requests)
        return [self._generate(request) for request in requests]

    def _generate(self, request: Request) -> Outcome:
        body = dict(self._completion, prompt=request.tokens)
        body["temperature"] = temperature_to_use(request, body["temperature"])
        if body["temperature"] > 0:
            body["seed"] = self._settings.sampling.row_seed(request.text, request.attempt)
        if self._settings.row_timeout is None:
            answer = self._server.handle_completions(body)
            return row_error(answer) if "error" in answer else self._answered(answer["choices"][0], answer)
        return self._generate_until(body, time.monotonic() + self._settings.row_timeout)

    def _generate_until(self, body: dict[str, Any], deadline: float) -> Outcome:
        """Stream the answer, because only between its pieces can it be cancelled."""
        texts: list[str] = []
        tokens: list[Mapping[str, Any]] = []
        last: dict[str, Any] = {}
        overdue = False

        def take(piece: dict[str, Any]) -> bool:
            nonlocal overdue, last
            last = piece
            if "error" in piece:
                return True
            for choice in piece.get("choices", ()):
                texts.append(choice.get("text") or "")
                tokens.extend((choice.get("logprobs") or {}).get("content") or ())
            overdue = time.monotonic() > deadline and not piece["choices"][0].get("finish_reason")
            return overdue

        returned = self._server.handle_completions({**body, "stream": True}, take)
        for answer in (returned or {}, last):
            if "error" in answer:
                return row_error(answer)
        if overdue:
            return RowError(
                ErrorType.TIMEOUT, f"the answer took longer than row_timeout={self._settings.row_timeout:g} s"
            )
        return self._answered({**last["choices"][0], "text": "".join(texts), "logprobs": {"content": tokens}}, last)

    def _answered(self, choice: Mapping[str, Any], answer: Mapping[str, Any]) -> Generation:
        generation = _generation(choice, answer)
        if self._labels is None:
            return generation
        tokens = (choice.get("logprobs") or {}).get("content") or ()
        confidence = label_confidence(generation.response, self._labels["field"], self._labels["all"], tokens)
        return replace(generation, confidence=confidence)

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


def _generation(choice: Mapping[str, Any], answer: Mapping[str, Any]) -> Generation:
    usage = answer["usage"]
    return Generation(
        response=choice["text"],
        finish_reason="length" if choice["finish_reason"] == "length" else "stop",
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        cached_tokens=(answer.get("timings") or {}).get("cache_n"),
    )


def row_error(answer: Mapping[str, Any]) -> RowError:
    """The typed error of an answer that is an error dictionary."""
    error = answer["error"]
    if isinstance(error, Mapping) and error.get("type") == "exceed_context_size_error":
        return RowError(ErrorType.PROMPT_TOO_LONG, str(error.get("message")))
    message = error.get("message", error) if isinstance(error, Mapping) else error
    return RowError(ErrorType.ENGINE_ERROR, f"llama.cpp: {message}")


def _size(model: str) -> int:
    path = Path(model)
    return sum(path.with_name(name).stat().st_size for name in split_names(path.name))


def _common_params(xllamacpp: Any, settings: EngineSettings, chosen: ServerSettings) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = settings.model
    parameters.n_ctx = chosen.n_ctx * chosen.n_parallel
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
    parameters.n_threads_http = 2
    parameters.verbosity = 2  # warnings and errors
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
        if pooling := settings.settings.get("pooling"):
            parameters.pooling_type = getattr(xllamacpp.llama_pooling_type, "LLAMA_POOLING_TYPE_" + pooling.upper())
    return parameters


def check_model(
    task: str, settings: Mapping[str, Any], options: Mapping[str, Any], header: GgufHeader, model: str
) -> None:
    """Refuse a model that cannot do the task, before it is loaded."""
    if tokenizer := options.get("tokenizer"):
        if task == "generate":
            raise ConfigurationError(
                "engine_options['tokenizer'] is for embedding; leave it out: generation uses the model's own tokenizer."
            )
        if not os.path.isfile(tokenizer):
            raise ConfigurationError(f"engine_options['tokenizer'] is {tokenizer!r}, and there is no such file.")
    if task == "generate":
        check_generation_model(settings, header, model)
    else:
        check_embedding_model(settings, header, model)


SPEC = EngineSpec(
    name="llamacpp",
    package="xllamacpp",
    install="pip install xllamacpp",
    needs_model_file=True,
    start=LlamaCppEngine,
    checks=CHECKS,
    output_options=OUTPUT_OPTIONS,
    check_model=check_model,
    truncates=True,
)
