"""The adapter behind which ``LLMBatchOperator`` and ``@task.llm_batch`` run a job of this package.

To common.ai a batch is sent to somebody else, who computes it while the task waits. Here nobody else is there: the task
computes the batch when it submits it, with everything that a job does (a worker process, durable chunks, errors as
rows). So a batch is done when it has been submitted, and waiting for it, deferred or not, ends at once. A task that is
killed meanwhile leaves its chunks behind, and its retry, which submits the same batch again, goes on from them.

The contract is that of ``airflow.providers.common.ai.batch.base`` (1.0, experimental).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from airflow.providers.common.ai.batch.base import (
    BatchAdapter,
    BatchState,
    ExtractedOutput,
    RawResultItem,
    SubmitResult,
)
from airflow.providers.common.ai.exceptions import LLMBatchInputError, LLMBatchJobError, LLMBatchLimitExceededError

from airflow_mullama.cache import cache_directory
from airflow_mullama.engines.sampling import Sampling
from airflow_mullama.errors import ConfigurationError, MullamaError
from airflow_mullama.hooks.filesystems import resolve_in_task
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.jobs.text_files import names_a_text_file
from airflow_mullama.rows import Status
from airflow_mullama.run import run_partition
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.parquet.output import read_published
from airflow_mullama.storage.staging.commit import publish_bytes

MOST_REQUESTS = 100_000
MOST_BYTES = 1 << 30
REQUESTS, RESULTS, TEXT_COLUMN = "requests.parquet", "results.parquet", "request"
SAMPLING_PARAMETERS = tuple(field.name for field in fields(Sampling))
JOB_PARAMETERS = ("engine", "engine_options", "gpus", "require_gpu", "chat", "max_retries", "row_timeout")


@dataclass(frozen=True)
class _Batch:
    """Requests as the column of a partition.

    Args:
        texts: the prompts, or where system prompts differ whole conversations as JSON.
        system_prompt: of all; ``None`` where they differ.
    """

    texts: list[str]
    system_prompt: str | None

    @classmethod
    def of(cls, requests: Sequence[Mapping[str, Any]], system_prompt: str) -> _Batch:
        """Requests, and the system prompt of those that have none of their own."""
        prompts = [request["prompt"] for request in requests]
        systems = [request.get("system_prompt") or system_prompt for request in requests]
        if len(set(systems)) == 1 and not names_a_text_file(systems[0]):
            return cls(prompts, systems[0])
        pairs = zip(systems, prompts, strict=True)
        return cls([json.dumps(_messages(system, prompt)) for system, prompt in pairs], None)

    def job_arguments(self) -> dict[str, Any]:
        """What a job needs to know of it."""
        if self.system_prompt is None:
            return {"messages_column": TEXT_COLUMN}
        literally = self.system_prompt.replace("{", "{{").replace("}", "}}")  # it names no column here
        return {"prompt_column": TEXT_COLUMN, "system_prompt": literally or None}

    def parquet(self) -> bytes:
        """As a file."""
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({TEXT_COLUMN: pa.array(self.texts, pa.large_string())}), sink)
        return bytes(sink.getvalue())

    def lies_at(self, location: Location) -> bool:
        """Whether an earlier attempt wrote it."""
        try:
            table = pq.read_table(location.path, filesystem=location.filesystem)
        except (OSError, pa.ArrowException):
            return False
        return bool(table.column_names == [TEXT_COLUMN] and table.column(TEXT_COLUMN).to_pylist() == self.texts)


def _messages(system: str, prompt: str) -> list[dict[str, str]]:
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": prompt}]


class MullamaBatchAdapter(BatchAdapter):
    """Runs a batch here and now, on a model of your own.

    ``model_id`` is ``mullama:`` and a model as the operators take it: ``mullama:/models/qwen3-8b-q4_k_m.gguf``,
    ``mullama:hf://owner/repo/file.gguf``. Of the connection, ``host`` is the directory or object store where batches
    lie; without one it is this machine's cache, which only does where the triggerer runs on it too.

    ``request_params`` may have the parameters of sampling, and ``engine``, ``engine_options``, ``gpus``,
    ``require_gpu``, ``chat``, ``max_retries``, ``row_timeout``.
    """

    name: ClassVar[str] = "mullama"
    conn_types: ClassVar[frozenset[str]] = frozenset({"mullama", "pydanticai"})
    max_requests: ClassVar[int] = MOST_REQUESTS
    max_payload_bytes: ClassVar[int] = MOST_BYTES
    allows_per_request_model: ClassVar[bool] = False

    def __init__(self, *, api_key: str | None = None, base_url: str | None = None, client: Any | None = None) -> None:
        super().__init__(api_key=api_key, base_url=base_url, client=client)
        self._root = base_url or str(cache_directory() / "batches")

    def validate_requests(
        self,
        requests: list[Any],
        *,
        model: str,
        output_spec: Any,
        idempotency_key: str,
        system_prompt: str = "",
        max_tokens: int = 1024,
        request_params: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the job, which says what cannot work, and refuse what one job cannot do for all requests."""
        self.check_custom_id_length(idempotency_key, len(requests))
        if len(requests) > self.max_requests:
            raise LLMBatchLimitExceededError(
                f"A batch has at most {self.max_requests} requests here, and this one has {len(requests)}: split the "
                "input with .expand(), or give Parquet to MullamaGenerateOperator, which has no such limit."
            )
        size = sum(len(request["prompt"]) + len(request.get("system_prompt") or system_prompt) for request in requests)
        if size > self.max_payload_bytes:
            raise LLMBatchLimitExceededError(
                f"A batch has at most {self.max_payload_bytes} characters here, and this one has {size}: split the "
                "input with .expand()."
            )
        for number, request in enumerate(requests):
            asked = self.resolve_request_model(request.get("model"), default_bare_model=model, request_index=number)
            if asked != model:
                raise LLMBatchInputError(
                    f"Request {number} asks for the model {asked!r}, and one batch loads one model."
                )
            if request.get("params") or request.get("max_tokens") not in (None, max_tokens):
                raise LLMBatchInputError(
                    f"Request {number} has params or max_tokens of its own; here they are those of the whole batch: "
                    "set request_params and max_tokens on the operator."
                )
        self._job(_Batch.of(requests, system_prompt), model, output_spec, max_tokens, request_params)

    def submit(
        self,
        requests: list[Any],
        *,
        model: str,
        idempotency_key: str,
        input_fingerprint: str,
        output_spec: Any,
        system_prompt: str = "",
        max_tokens: int = 1024,
        request_params: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SubmitResult:
        """Compute the batch.

        Raises:
            LLMBatchJobError: it could not be; what is finished is kept for the retry.
        """
        folder = self._folder(idempotency_key, input_fingerprint)
        batch = _Batch.of(requests, system_prompt)
        job = self._job(batch, model, output_spec, max_tokens, request_params)
        source = folder.join(REQUESTS)
        if not batch.lies_at(
            source
        ):  # the same requests keep their file, so that an earlier attempt's chunks are of it
            publish_bytes(source, batch.parquet())
        try:
            run_partition(job, source.address, folder.join(RESULTS).address, resolver=resolve_in_task)
        except MullamaError as error:
            raise LLMBatchJobError(str(error)) from error
        return SubmitResult(batch_id=folder.address, provider_input_ref=None)

    def get_batch(self, batch_id: str) -> BatchState:
        """Done, if its results are there."""
        published = read_published(resolve_in_task(batch_id).join(RESULTS))
        if published is None:
            return BatchState("failed", None, f"There are no results at {batch_id!r}: they were removed.")
        statuses = published.manifest.status_counts
        succeeded = statuses.get(Status.SUCCESS.value, 0) + statuses.get(Status.INVALID_OUTPUT.value, 0)
        counts = {"succeeded": succeeded, "errored": published.manifest.rows - succeeded, "expired": 0, "cancelled": 0}
        return BatchState("completed", counts, None)

    def cancel_batch(self, batch_id: str) -> None:
        """Nothing runs any more; and a task that is killed takes its worker with it."""

    def iter_results(self, batch_id: str) -> Iterator[RawResultItem]:
        """The rows of the results, in order."""
        location = resolve_in_task(batch_id).join(RESULTS)
        published = read_published(location)
        if published is None:
            raise LLMBatchJobError(f"There are no results at {batch_id!r}.")
        key = location.parent.name.partition("-")[0]
        return _results(location, key, published.manifest.model)

    def build_output_directive(self, spec: Any) -> dict[str, Any]:
        """The schema; the job holds decoding to it where its engine can."""
        return {"output_schema": spec.json_schema} if spec.is_structured else {}

    def extract_output(self, raw: RawResultItem, spec: Any) -> ExtractedOutput:
        """The answer's text, which is JSON if a schema was asked for."""
        return ExtractedOutput(kind="json_text" if spec.is_structured else "text", text=raw.raw)

    def find_orphaned_batch(self, idempotency_key: str, input_fingerprint: str, not_before: str) -> str | None:
        """The batch of this task and input, if its results are there; ``not_before`` says nothing that these do not."""
        folder = self._folder(idempotency_key, input_fingerprint)
        return folder.address if read_published(folder.join(RESULTS)) else None

    def _folder(self, idempotency_key: str, input_fingerprint: str) -> Location:
        return resolve_in_task(self._root).join(f"{idempotency_key}-{input_fingerprint[:16]}")

    def _job(
        self, batch: _Batch, model: str, spec: Any, max_tokens: int, parameters: Mapping[str, Any] | None
    ) -> GenerateJob:
        given = dict(parameters or {})
        if unknown := given.keys() - {*SAMPLING_PARAMETERS, *JOB_PARAMETERS}:
            raise LLMBatchInputError(
                f"request_params has {', '.join(map(repr, sorted(unknown)))}; with a model of 'mullama:' it may have "
                f"{', '.join((*SAMPLING_PARAMETERS, *JOB_PARAMETERS))}."
            )
        try:
            return GenerateJob(
                model=model,
                **batch.job_arguments(),
                max_tokens=max_tokens,
                sampling={name: given[name] for name in SAMPLING_PARAMETERS if name in given},
                max_error_ratio=1.0,  # what of the batch may fail is the operator's to decide
                **self.build_output_directive(spec),
                **{name: given[name] for name in JOB_PARAMETERS if name in given},
            )
        except ConfigurationError as error:
            raise LLMBatchInputError(str(error)) from error


def _results(location: Location, key: str, model: str) -> Iterator[RawResultItem]:
    names = ["status", "error_type", "error", "response", "finish_reason", "prompt_tokens", "completion_tokens"]
    with pq.ParquetFile(location.path, filesystem=location.filesystem) as file:
        index = 0
        for batch in file.iter_batches(columns=names):
            for row in batch.to_pylist():
                answered = row["status"] in (Status.SUCCESS.value, Status.INVALID_OUTPUT.value)
                usage = {
                    name: row[column]
                    for name, column in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))
                    if row[column] is not None
                }
                yield RawResultItem(
                    custom_id=f"{key}-{index}",
                    index=index,
                    provider_status="success" if answered else "errored",
                    model=model,
                    usage=usage or None,
                    finish_reason=row["finish_reason"],
                    error=None if answered else {"type": row["error_type"], "message": row["error"]},
                    raw=row["response"],
                )
                index += 1
