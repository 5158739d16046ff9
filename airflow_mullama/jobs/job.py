"""Frozen, validated descriptions of the work: everything that can be known to be wrong before a row is read.

A job says what to do with any partition; where a partition lies and where its output goes are arguments of
:func:`airflow_mullama.run.run_partition`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from airflow_mullama.arguments import Number, OneOf, OrNone, Whole, require
from airflow_mullama.engines.base import DEFAULT_LOAD_TIMEOUT
from airflow_mullama.engines.registry import EngineSpec, engine_spec
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.gpus.request import GpuRequest, Gpus
from airflow_mullama.jobs.prompts import RequestTemplate
from airflow_mullama.row_counts import RowCounts
from airflow_mullama.rows import ResultColumns
from airflow_mullama.schemas import OutputSchema
from airflow_mullama.storage.addresses import refuse_credentials
from airflow_mullama.storage.parquet.unified_schema import SCHEMA_DRIFT, SchemaDrift
from airflow_mullama.storage.partition_output import PartitionOutput

IF_EXISTS = ("resume", "overwrite", "error")
MAX_CHUNK_ROWS = 1_000_000
# What is chosen is remembered, row by row.
MOST_CHOSEN_ROWS = 10_000_000
MOST_SAMPLED_ROWS = 100_000
# Raised when the meaning of a fingerprinted field changes, so that older outputs are computed anew.
FINGERPRINT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Job:
    """What generation and embedding share.

    Args:
        model: a GGUF file's path, ``hf://owner/repo/file.gguf``, an object-store URL, ``demo:NAME``, or ``echo``; to
            embed also a folder or ``owner/repo`` on the Hub, with the engine ``sentence_transformers``; for
            the engine ``openai``, the name that the server knows.
        model_sha256: of the model file's content: another file is refused before anything parses it. ``None``: any.
        engine: ``auto``, or an engine's name.
        engine_options: the engine's own settings, such as ``n_gpu_layers``, ``n_ctx``, ``n_batch``, ``n_parallel``.
        require_gpu: fail where layers are to go to a GPU and the engine sees none; otherwise warn.
        max_retries: further tries of a row whose error is retryable.
        row_timeout: seconds the engine may spend on one row; ``None`` for no limit.
        load_timeout: seconds in which the engine must be ready, its model loaded or its server reached.
        max_error_ratio: the share of rows, 0 to 1, that may fail before the task does, after the output is written.
        chunk_rows: rows made durable together.
        chunk_seconds: how long a finished row may wait until it is durable, however few are.
        if_exists: what to do about an output that is already there: ``resume``, ``overwrite``, ``error``.
        schema_drift: what to do about files of one partition whose schemas differ: ``promote`` reads them as one that
            holds the values of all without loss, ``refuse`` fails.
        gpus: which GPUs the job has for itself, a worker on each: ``"auto"`` for a free one, a number of them,
            ``"all"``, a list, or ``None`` to lease none. It waits until they are free.
        output_prefix: put before each added column's name.
        limit: only the first rows of all partitions, so many of them; the output has these and no others.
        sample: only so many rows, drawn evenly from all partitions, in their order.
        sample_seed: of the drawing: the same one draws the same rows.
        reuse_from: an output of the same job over other rows of the input (of a sample, say): what it answered is not
            asked again.
        max_seconds: seconds that the engine may work; then the job ends with what is finished durable.
        max_tokens_total: tokens, of prompts and answers, that the engine may be given and give; the same.
    """

    model: str
    model_sha256: str | None = None
    engine: str = "auto"
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    require_gpu: bool = False
    max_retries: int = 2
    row_timeout: float | None = None
    load_timeout: float = DEFAULT_LOAD_TIMEOUT
    max_error_ratio: float = 0.1
    chunk_rows: int = 1000
    chunk_seconds: float = 60.0
    if_exists: Literal["resume", "overwrite", "error"] = "resume"
    schema_drift: SchemaDrift = "promote"
    output_prefix: str = ""
    gpus: Gpus = None
    limit: int | None = None
    sample: int | None = None
    sample_seed: int = 0
    reuse_from: str | None = None
    max_seconds: float | None = None
    max_tokens_total: int | None = None

    task: ClassVar[Literal["generate", "embed"]]

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ConfigurationError(
                f"model is {self.model!r}; name a GGUF file, hf://owner/repo/file.gguf, an object-store URL, "
                "demo:ticket-tagger, demo:minilm or echo, or for engine='openai' the model's name on the server."
            )
        refuse_credentials(self.model, "The model")
        self._check_model_sha256()
        require("max_retries", self.max_retries, Whole(0, 100))
        require("chunk_rows", self.chunk_rows, Whole(1, MAX_CHUNK_ROWS))
        require("chunk_seconds", self.chunk_seconds, Number(1.0, 86_400.0))
        require("max_error_ratio", self.max_error_ratio, Number(0.0, 1.0))
        require("row_timeout", self.row_timeout, OrNone(Number(0.001, 86_400.0)))
        require("load_timeout", self.load_timeout, Number(1.0, 86_400.0))
        require("if_exists", self.if_exists, OneOf(IF_EXISTS))
        require("schema_drift", self.schema_drift, OneOf(SCHEMA_DRIFT))
        self._check_rows_and_budget()
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

    def _check_rows_and_budget(self) -> None:
        require("limit", self.limit, OrNone(Whole(1, MOST_CHOSEN_ROWS)))
        require("sample", self.sample, OrNone(Whole(1, MOST_SAMPLED_ROWS)))
        require("max_tokens_total", self.max_tokens_total, OrNone(Whole(1)))
        require("sample_seed", self.sample_seed, Whole(0))
        require("max_seconds", self.max_seconds, OrNone(Number(0.001, 1e9)))
        if self.limit is not None and self.sample is not None:
            raise ConfigurationError("limit and sample both say which rows; give one of them.")
        if self.reuse_from is not None:
            if not isinstance(self.reuse_from, str) or not self.reuse_from:
                raise ConfigurationError(f"reuse_from is {self.reuse_from!r}; it must be the path of an output.")
            refuse_credentials(self.reuse_from, "reuse_from")

    def _check_model_sha256(self) -> None:
        given = self.model_sha256
        if given is None:
            return
        if not isinstance(given, str) or not re.fullmatch("[0-9a-fA-F]{64}", given.strip()):
            raise ConfigurationError(
                f"model_sha256 is {given!r}; it must be a SHA-256 in hexadecimal, 64 digits, such as sha256sum and "
                "the manifest give it."
            )
        if not self.engine_spec.needs_model_file:
            raise ConfigurationError(
                f"model_sha256 is for model files, and the engine {self.engine_spec.name!r} has none; leave it out."
            )
        object.__setattr__(self, "model_sha256", given.strip().lower())

    @property
    def engine_spec(self) -> EngineSpec:
        """The engine that will run, with ``auto`` decided."""
        return engine_spec(self.engine, self.model)

    @property
    def schema(self) -> OutputSchema | None:
        """What an answer must look like; ``None`` if it is just text."""
        return None

    @property
    def adapters(self) -> Sequence[Mapping[str, Any]]:
        """LoRA adapters, each its ``path`` and its ``scale``."""
        return ()

    @property
    def projector(self) -> str | None:
        """What brings pictures to the model, as the user wrote it."""
        return None

    @property
    def picture_root(self) -> str | None:
        """The folder that paths of pictures begin at; ``None``: the input's."""
        return None

    @property
    def template(self) -> RequestTemplate:
        """What renders a row's request."""
        raise NotImplementedError

    def engine_settings(self) -> dict[str, Any]:
        """What the worker needs to know of this job besides the model and the engine's options (JSON)."""
        raise NotImplementedError

    def result_columns(self, dimensions: int | None) -> ResultColumns:
        """The columns this job adds; ``dimensions`` is the model's vector length where it has one."""
        raise NotImplementedError

    @property
    def added_column_names(self) -> tuple[str, ...]:
        """Names of the added columns, without prefix."""
        raise NotImplementedError

    def output(self, place: PartitionOutput) -> PartitionOutput:
        """Where outcomes are written, given the place of the output: it may have other rows than the input."""
        return place

    @property
    def left_out_columns(self) -> tuple[str, ...]:
        """Columns of the input that the output does not have."""
        return ()

    def output_rows(self, counts: RowCounts) -> int | None:
        """How many rows the output has; ``None``: those of the input."""
        return None

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
        payload = {
            "version": FINGERPRINT_VERSION,
            "model": model_sha256,
            "template": self.template.identity,
            **self.request_identity(),
        }
        return hashlib.sha256(json.dumps(payload, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    def fingerprint(self, *, input_identity: str, model_sha256: str) -> str:
        """The hash of everything that decides the output of one partition.

        Args:
            input_identity: what distinguishes this state of the input from others.
            model_sha256: hash of the model's content.
        """
        request = self.request_fingerprint(model_sha256=model_sha256)
        return hashlib.sha256(f"{request}:{input_identity}".encode()).hexdigest()
