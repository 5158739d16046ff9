"""The engine over sentence-transformers: the field's own embedding models, on PyTorch, ONNX Runtime or OpenVINO.

Rows are tokenized ahead, and computed in calls of like length: what is padded is computed too.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from airflow_mullama.engines.base import (
    Embedding,
    EngineInfo,
    EngineLostError,
    EngineSettings,
    Outcome,
    Request,
)
from airflow_mullama.engines.registry import EngineSpec
from airflow_mullama.engines.sentence_transformers.loading import first_line, load_model
from airflow_mullama.engines.sentence_transformers.model_checks import check_model, vector_length
from airflow_mullama.engines.sentence_transformers.model_folder import ModelFolder, read_model_folder
from airflow_mullama.engines.sentence_transformers.settings import (
    CHECKS,
    OUTPUT_OPTIONS,
    choose_settings,
    variables,
)
from airflow_mullama.engines.sentence_transformers.text_tokens import TextTokens, TokenizedText
from airflow_mullama.models.folder import resolve_folder
from airflow_mullama.models.names import may_be_folder
from airflow_mullama.models.resolve import Model
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.storage.filesystems import Resolver

log = logging.getLogger(__name__)

REMEDY = "set chunking= to have a vector of each part, or truncate='end' for one of the beginning"
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "failed to allocate memory")
# After these nothing can be computed in this process any more.
DEVICE_LOST = ("CUDA error", "HIP error", "device-side assert", "unspecified launch failure")


class SentenceTransformersEngine:
    """A model loaded by sentence-transformers."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        if not settings.options.get("trust_remote_code"):
            os.environ["HF_HUB_OFFLINE"] = "1"  # the model is a folder that is whole: nothing is fetched for it
        import torch

        self._torch = torch
        folder = read_model_folder(settings.model)
        self._chosen = choose_settings(settings, torch, _stored_dtype(folder))
        if self._chosen.on_cpu:
            torch.set_num_threads(self._chosen.n_threads)
        self._model = load_model(settings, self._chosen, folder, torch)
        self._prompt = folder.prompt(settings.options)
        first = self._model[0]
        self._tokens = TextTokens(
            first,
            self._prompt,
            truncates=settings.settings.get("truncate") == "end",
            positions=_positions(folder),
        )
        self._padding = None if self._tokens.is_static else _Padding(first)
        if self._padding is not None and self._prompt and not _pools_prompt(self._model):
            self._padding.prompt_length = first.preprocess(["x"], prompt=self._prompt).get("prompt_length")
        self._dimensions = folder.vector_length
        self.rows_per_call = self._chosen.rows_per_call
        self.info = EngineInfo(
            engine="sentence_transformers",
            version=importlib.metadata.version("sentence-transformers"),
            n_parallel=1,
            calls=1,
            window=self._chosen.window,
            n_ctx=self._tokens.limit if self._tokens.is_limited else None,
            dimensions=self._dimensions,
            text_tokens=self._tokens.limit if self._tokens.is_limited else None,
            devices=(self._chosen.device_words,),
            notes=self._chosen.notes,
            tokens_per_call=self._chosen.batch_tokens,
            pads_rows=not self._tokens.is_static,
            settings=self._chosen.words,
        )

    def close(self) -> None:
        """Free the model's memory."""
        del self._model
        self._forget()

    # -- preparing ---------------------------------------------------------------------------------------------------

    def prepare(self, requests: Sequence[Request]) -> list[Request | RowError]:
        refused = [self._refuse_by_size(request) for request in requests]
        asked = [request.text for request, error in zip(requests, refused, strict=True) if error is None]
        tokenized = iter(self._tokens.of(asked))
        return [
            error or self._checked(request, next(tokenized)) for request, error in zip(requests, refused, strict=True)
        ]

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        return [len(found.tokens) for found in self._tokens.of([request.text for request in requests])]

    def _refuse_by_size(self, request: Request) -> RowError | None:
        if not self._tokens.is_too_large(request.text):
            return None
        return RowError(
            ErrorType.PROMPT_TOO_LONG,
            f"the request has {len(request.text):,} characters, more than the {self._tokens.limit} tokens that the "
            f"model reads can hold: {REMEDY}",
        )

    def _checked(self, request: Request, found: TokenizedText) -> Request | RowError:
        if not found.tokens:
            return RowError(ErrorType.EMPTY_INPUT, "the request has no text and the model adds no tokens of its own")
        if len(found.tokens) <= self._tokens.limit:
            request.tokens, request.truncated = found.tokens, found.truncated
            return request
        return RowError(
            ErrorType.PROMPT_TOO_LONG,
            f"the request has {len(found.tokens)} tokens and the model reads {self._tokens.limit}: {REMEDY}",
        )

    # -- computing ---------------------------------------------------------------------------------------------------

    def run(self, requests: Sequence[Request]) -> list[Outcome]:
        try:
            vectors = self._vectors([request.tokens or () for request in requests])
        except Exception as error:  # noqa: BLE001 - whatever it is, these rows are asked in another way
            kind, message = type(error).__name__, first_line(error)
            lacks_memory = self._is_out_of_memory(error)
        else:
            return [
                Embedding(vector, len(request.tokens or ()), request.truncated)
                for request, vector in zip(requests, vectors, strict=True)
            ]
        # Only here, where the failed call's memory is not held by its error any more.
        if lacks_memory:
            return self._with_less_memory(requests)
        if any(words in message for words in DEVICE_LOST):
            raise EngineLostError(f"lost its GPU ({message})")
        if len(requests) > 1:  # one bad text must not cost its neighbours
            return [self.run([request])[0] for request in requests]
        return [RowError(ErrorType.ENGINE_ERROR, f"sentence-transformers: {kind}: {message}")]

    def _with_less_memory(self, requests: Sequence[Request]) -> list[Outcome]:
        """The halves of a call that did not fit, one after the other, and smaller calls from now on."""
        self._forget()
        longest = max(len(request.tokens or ()) for request in requests)
        if len(requests) == 1:
            return [
                RowError(
                    ErrorType.ENGINE_ERROR,
                    f"{self._chosen.device_words} has not enough memory for one text of {longest} tokens: shorten it, "
                    "set truncate='end', or take a smaller model",
                )
            ]
        middle = len(requests) // 2
        budget = max(1, middle * longest)
        if budget < (self.info.tokens_per_call or 0):
            log.warning(
                "out of memory with %d texts of up to %d tokens: from now on a call has up to %d tokens",
                len(requests),
                longest,
                budget,
            )
            self.info = replace(self.info, tokens_per_call=budget)
        return [*self.run(requests[:middle]), *self.run(requests[middle:])]

    def _vectors(self, tokens: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        torch = self._torch
        features = _flat(tokens) if self._padding is None else self._padding.features(tokens)
        with torch.inference_mode():
            on_device = {
                name: torch.from_numpy(value).to(self._chosen.device) if isinstance(value, np.ndarray) else value
                for name, value in features.items()
            }
            vectors = self._model(on_device)["sentence_embedding"]
            found: npt.NDArray[np.float32] = vectors.to(device="cpu", dtype=torch.float32).numpy()
        return found if self._dimensions is None else found[:, : self._dimensions]

    def _is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, (self._torch.OutOfMemoryError, MemoryError)) or any(
            words in str(error).lower() for words in OUT_OF_MEMORY
        )

    def _forget(self) -> None:
        """Give memory that nothing uses back to the device."""
        kind = self._chosen.device.partition(":")[0]
        if kind != "cpu":
            getattr(self._torch, kind).empty_cache()


class _Padding:
    """Token ids of several texts as one matrix, padded as the model wants it."""

    def __init__(self, module: Any) -> None:
        tokenizer = module.tokenizer
        self._token = int(tokenizer.pad_token_id or 0)
        self._on_the_left = tokenizer.padding_side == "left"
        self._with_types = "token_type_ids" in tokenizer.model_input_names
        self.prompt_length: int | None = None

    def features(self, tokens: Sequence[Sequence[int]]) -> dict[str, Any]:
        """What the model's first module takes."""
        longest = max(map(len, tokens))
        ids = np.full((len(tokens), longest), self._token, np.int64)
        mask = np.zeros((len(tokens), longest), np.int64)
        for row, one in enumerate(tokens):
            place = slice(longest - len(one), None) if self._on_the_left else slice(0, len(one))
            ids[row, place] = one
            mask[row, place] = 1
        features: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "modality": "text"}
        if self._with_types:
            features["token_type_ids"] = np.zeros_like(ids)
        if self.prompt_length is not None:
            features["prompt_length"] = self.prompt_length
        return features


def _flat(tokens: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Token ids one behind the other, as a static embedding takes them."""
    lengths = np.array([len(one) for one in tokens], np.int64)
    return {
        "input_ids": np.concatenate([np.asarray(one, np.int64) for one in tokens]),
        "offsets": np.cumsum(lengths) - lengths,
    }


def _pools_prompt(model: Any) -> bool:
    return all(getattr(module, "include_prompt", True) for module in model)


def _positions(folder: ModelFolder) -> int | None:
    positions = folder.modules[0].settings.get("max_position_embeddings")
    return int(positions) if isinstance(positions, int) and positions > 0 else None


def _stored_dtype(folder: ModelFolder) -> str | None:
    settings = folder.modules[0].settings
    return settings.get("dtype") or settings.get("torch_dtype")


def find_model(name: str, resolver: Resolver, sha256: str | None, options: Any) -> Model:
    """The model's folder."""
    return resolve_folder(name, resolver, sha256, str(options.get("backend", "torch")))


SPEC = EngineSpec(
    name="sentence_transformers",
    package="sentence_transformers",
    install="pip install 'airflow-mullama[sentence-transformers]'",
    find_model=find_model,
    takes=may_be_folder,
    start=SentenceTransformersEngine,
    checks=CHECKS,
    output_options=OUTPUT_OPTIONS,
    check_model=check_model,
    vector_length=vector_length,
    generates=False,
    truncates=True,
    variables=variables,
)
