"""Frozen, validated descriptions of the work: everything that can be known to be wrong before a row is read.

A job says what to do with any partition; where a partition lies and where its output goes are arguments of
:func:`airflow_mullama.runner.run_partition`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pyarrow as pa

from airflow_mullama.engines.registry import EngineSpec, engine_spec
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.gpus.request import GpuRequest, Gpus
from airflow_mullama.prompts import PromptTemplate
from airflow_mullama.rows import (
    EMBEDDING_COLUMN_NAMES,
    GENERATION_COLUMN_NAMES,
    ROW_COLUMN,
    TRUNCATED,
    ResultColumns,
    embedding_columns,
    generation_columns,
)
from airflow_mullama.sampling import Sampling
from airflow_mullama.schemas import OutputSchema, load_output_schema

IF_EXISTS = ("resume", "overwrite", "error")
POOLING = ("mean", "cls", "last")
TRUNCATE = ("error", "end")
DTYPES: Mapping[str, pa.DataType] = {"float32": pa.float32(), "float16": pa.float16()}
MAX_CHUNK_ROWS = 1_000_000
# Raised when the meaning of a fingerprinted field changes, so that older outputs are computed anew.
FINGERPRINT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Job:
    """What generation and embedding share.

    Args:
        model: a GGUF file's path, ``hf://owner/repo/file.gguf``, an object-store URL, ``demo:NAME``, or ``echo``; for
            the engine ``openai``, the name that the server knows.
        engine: ``auto``, or an engine's name.
        engine_options: the engine's own settings, such as ``n_gpu_layers``, ``n_ctx``, ``n_batch``, ``n_parallel``.
        require_gpu: fail where layers are to go to a GPU and the engine sees none; otherwise warn.
        max_retries: further tries of a row whose error is retryable.
        row_timeout: seconds the engine may spend on one row; ``None`` for no limit.
        max_error_ratio: the share of rows, 0 to 1, that may fail before the task does, after the output is written.
        chunk_rows: rows made durable together.
        if_exists: what to do about an output that is already there: ``resume``, ``overwrite``, ``error``.
        gpus: which GPUs the job has for itself, a worker on each: ``"auto"`` for a free one, a number of them,
            ``"all"``, a list, or ``None`` to lease none. It waits until they are free.
        output_prefix: put before each added column's name.
    """

    model: str
    engine: str = "auto"
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    require_gpu: bool = False
    max_retries: int = 2
    row_timeout: float | None = None
    max_error_ratio: float = 0.1
    chunk_rows: int = 1000
    if_exists: Literal["resume", "overwrite", "error"] = "resume"
    output_prefix: str = ""
    gpus: Gpus = None

    task: ClassVar[Literal["generate", "embed"]]

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ConfigurationError(
                f"model is {self.model!r}; name a GGUF file, hf://owner/repo/file.gguf, an object-store URL, "
                "demo:ticket-tagger, demo:minilm or echo, or for engine='openai' the model's name on the server."
            )
        _whole("max_retries", self.max_retries, 0, 100)
        _whole("chunk_rows", self.chunk_rows, 1, MAX_CHUNK_ROWS)
        _number("max_error_ratio", self.max_error_ratio, 0.0, 1.0)
        if self.row_timeout is not None:
            _number("row_timeout", self.row_timeout, 0.001, 86_400.0)
        _one_of("if_exists", self.if_exists, IF_EXISTS)
        if not isinstance(self.output_prefix, str):
            raise ConfigurationError(f"output_prefix is {self.output_prefix!r}; it must be a text, such as 'tag_'.")
        if not isinstance(self.engine_options, Mapping):
            raise ConfigurationError(
                f"engine_options must be a dictionary such as {{'n_ctx': 4096}}, not {self.engine_options!r}."
            )
        object.__setattr__(self, "engine_options", self.engine_spec.with_secrets_hidden(self.engine_options))
        self.engine_spec.validate_options(self.engine_options)
        object.__setattr__(self, "gpus", GpuRequest(self.gpus).gpus)
        if self.gpus is not None and self.engine_spec.name == "openai":
            raise ConfigurationError(
                f"gpus is {self.gpus!r}, and with engine='openai' nothing is computed on this machine; leave it out."
            )

    @property
    def engine_spec(self) -> EngineSpec:
        """The engine that will run, with ``auto`` decided."""
        return engine_spec(self.engine, self.model)

    @property
    def schema(self) -> OutputSchema | None:
        """What an answer must look like; ``None`` if it is just text."""
        return None

    @property
    def template(self) -> PromptTemplate:
        """What renders a row's request."""
        raise NotImplementedError

    def engine_settings(self) -> dict[str, Any]:
        """What the worker needs to know of this job beside the model and the engine's options (JSON)."""
        raise NotImplementedError

    def result_columns(self, dimensions: int | None) -> ResultColumns:
        """The columns this job adds; ``dimensions`` is the model's vector length where it has one."""
        raise NotImplementedError

    @property
    def added_column_names(self) -> tuple[str, ...]:
        """Names of the added columns, without prefix."""
        raise NotImplementedError

    def request_identity(self) -> dict[str, Any]:
        """Everything of the job that decides a row's outcome, given its request (JSON)."""
        spec = self.engine_spec
        return {
            "task": self.task,
            "engine": spec.name,
            "engine_options": {
                name: value for name, value in sorted(self.engine_options.items()) if name in spec.output_options
            },
            "settings": self.engine_settings(),
            "output_prefix": self.output_prefix,
        }

    def request_fingerprint(self, *, model_sha256: str) -> str:
        """The hash of everything but the input that decides a row's outcome: template, model, settings.

        Args:
            model_sha256: hash of the model's content.
        """
        template = self.template
        payload = {
            "version": FINGERPRINT_VERSION,
            "model": model_sha256,
            "template": [list(template.literals), list(template.columns)],
            **self.request_identity(),
        }
        return hashlib.sha256(json.dumps(payload, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    def fingerprint(self, *, input_identity: str, model_sha256: str) -> str:
        """The hash of everything that decides the output of one partition.

        Args:
            input_identity: what tells this state of the input from any other.
            model_sha256: hash of the model's content.
        """
        request = self.request_fingerprint(model_sha256=model_sha256)
        return hashlib.sha256(f"{request}:{input_identity}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class GenerateJob(Job):
    """Add a column of generated text.

    Args:
        prompt_template: text with ``{column}`` placeholders.
        prompt_column: instead of a template, the column that holds the prompt.
        system_prompt: sent as it is before each row's prompt.
        chat: use the model's chat template; ``None``: if it carries one.
        max_tokens: most tokens of one answer.
        sampling: see :class:`airflow_mullama.sampling.Sampling`.
        output_schema: what an answer must look like, so that it becomes typed columns: a JSON Schema (a dictionary, or
            the path of a file), a Pydantic model class or a :class:`pyarrow.Schema`.
        repair_prompt: tell the model what was wrong when it is asked again because of an answer that breaks the schema.
    """

    prompt_template: str | None = None
    prompt_column: str | None = None
    system_prompt: str | None = None
    chat: bool | None = None
    max_tokens: int = 256
    sampling: Mapping[str, Any] | Sampling | None = None
    output_schema: Any = None
    repair_prompt: bool = False

    task: ClassVar[Literal["generate", "embed"]] = "generate"

    def __post_init__(self) -> None:
        super().__post_init__()
        _exactly_one(self.prompt_template, self.prompt_column, "prompt_template", "prompt_column")
        _ = self.template
        _whole("max_tokens", self.max_tokens, 1, 1_000_000)
        if self.chat is not None and not isinstance(self.chat, bool):
            raise ConfigurationError(f"chat is {self.chat!r}; it must be True, False or None.")
        if self.system_prompt is not None and not isinstance(self.system_prompt, str):
            raise ConfigurationError(f"system_prompt is {self.system_prompt!r}; it must be a text or None.")
        sampling = self.sampling if isinstance(self.sampling, Sampling) else Sampling.from_mapping(self.sampling)
        object.__setattr__(self, "sampling", sampling)
        if self.output_schema is not None:
            object.__setattr__(self, "output_schema", self._checked_schema())
        elif self.repair_prompt:
            raise ConfigurationError("repair_prompt=True needs an output_schema that an answer can break.")

    def _checked_schema(self) -> OutputSchema:
        schema = load_output_schema(self.output_schema)
        clash = [field.name for field in schema.fields if field.name in GENERATION_COLUMN_NAMES]
        if clash:
            raise ConfigurationError(
                f"output_schema has the field(s) {', '.join(map(repr, clash))}, which every output has already; give "
                "them other names."
            )
        if any(field.name == ROW_COLUMN for field in schema.fields):
            raise ConfigurationError(
                f"output_schema has the field {ROW_COLUMN!r}, which stands for a row's number while it is staged; "
                "give it another name."
            )
        return schema

    @property
    def template(self) -> PromptTemplate:
        return _template(self.prompt_template, self.prompt_column)

    def engine_settings(self) -> dict[str, Any]:
        assert isinstance(self.sampling, Sampling)
        schema = self.schema
        return {
            "system_prompt": self.system_prompt,
            "chat": self.chat,
            "max_tokens": self.max_tokens,
            "sampling": {**vars(self.sampling), "stop": list(self.sampling.stop)},
            # Absent without a schema, so that fingerprints of jobs without one do not depend on this.
            **({} if schema is None else {"output_schema": schema.to_json(), "repair_prompt": self.repair_prompt}),
        }

    @property
    def schema(self) -> OutputSchema | None:
        """The output schema, loaded."""
        assert self.output_schema is None or isinstance(self.output_schema, OutputSchema)
        return self.output_schema

    def result_columns(self, dimensions: int | None) -> ResultColumns:
        return generation_columns(self.schema.fields if self.schema else ())

    @property
    def added_column_names(self) -> tuple[str, ...]:
        return (*GENERATION_COLUMN_NAMES, *(field.name for field in (self.schema.fields if self.schema else ())))


@dataclass(frozen=True, kw_only=True)
class EmbedJob(Job):
    """Add a column of embeddings.

    Args:
        text_column: the column that holds the text.
        text_template: instead of a column, text with ``{column}`` placeholders.
        normalize: scale each vector to length 1.
        pooling: ``mean``, ``cls`` or ``last``; ``None``: the model's own.
        dimensions: keep only the first so many numbers of each vector (for models trained for it).
        dtype: ``float32`` or ``float16``, the type of the stored numbers.
        truncate: what becomes of a text that is longer than the model reads: ``error``, the row fails with
            ``prompt_too_long``; ``end``, its end is cut off, and the output has one column more, ``truncated``.
    """

    text_column: str | None = None
    text_template: str | None = None
    normalize: bool = True
    pooling: Literal["mean", "cls", "last"] | None = None
    dimensions: int | None = None
    dtype: Literal["float32", "float16"] = "float32"
    truncate: Literal["error", "end"] = "error"

    task: ClassVar[Literal["generate", "embed"]] = "embed"

    def __post_init__(self) -> None:
        super().__post_init__()
        _exactly_one(self.text_template, self.text_column, "text_template", "text_column")
        _ = self.template
        if self.pooling is not None:
            _one_of("pooling", self.pooling, POOLING)
        _one_of("dtype", self.dtype, tuple(DTYPES))
        if self.dimensions is not None:
            _whole("dimensions", self.dimensions, 1, 1_000_000)
        if not isinstance(self.normalize, bool):
            raise ConfigurationError(f"normalize is {self.normalize!r}; it must be True or False.")
        _one_of("truncate", self.truncate, TRUNCATE)
        if self.truncate == "end" and not self.engine_spec.truncates:
            raise ConfigurationError(
                f"truncate='end', and the engine {self.engine_spec.name!r} cannot cut texts at the model's limit; "
                "leave it out, so that such rows fail alone, or use the engine 'llamacpp'."
            )

    @property
    def template(self) -> PromptTemplate:
        return _template(self.text_template, self.text_column)

    def engine_settings(self) -> dict[str, Any]:
        return {
            "normalize": self.normalize,
            "pooling": self.pooling,
            "dimensions": self.dimensions,
            "dtype": self.dtype,
            "truncate": self.truncate,
        }

    def result_columns(self, dimensions: int | None) -> ResultColumns:
        if dimensions is None:
            raise ConfigurationError("The engine did not say how long its vectors are.")
        return embedding_columns(self.dimensions or dimensions, DTYPES[self.dtype], truncated=self.truncate == "end")

    @property
    def added_column_names(self) -> tuple[str, ...]:
        return (*EMBEDDING_COLUMN_NAMES, *((TRUNCATED,) if self.truncate == "end" else ()))


def _template(template: str | None, column: str | None) -> PromptTemplate:
    if template is not None:
        return PromptTemplate.parse(template)
    assert column is not None
    return PromptTemplate.of_column(column)


def _exactly_one(first: object, second: object, first_name: str, second_name: str) -> None:
    if (first is None) == (second is None):
        raise ConfigurationError(f"Give either {first_name} or {second_name}, exactly one of the two.")


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}.")


def _whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigurationError(f"{name} is {value!r}; it must be a whole number from {low} to {high}.")


def _number(name: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigurationError(f"{name} is {value!r}; it must be a number from {low:g} to {high:g}.")
