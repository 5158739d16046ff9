"""A few rows, each with the prompt as the model gets it: what is looked at before anything is spent on the rest."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from airflow_mullama.errors import JobStoppedError, ModelLoadError
from airflow_mullama.gpus import GpuRequest, lease_gpus
from airflow_mullama.jobs.job import Job
from airflow_mullama.rows import RowError
from airflow_mullama.run.picture_root import template_with_files
from airflow_mullama.run.prepare import engine_settings, prepare_model
from airflow_mullama.run.request_batches import batch_of
from airflow_mullama.storage.filesystems import Resolver, resolve_location
from airflow_mullama.storage.partitions import Partition
from airflow_mullama.worker.client import Exited, Outcomes, Refused, ShownPrompt, Started, Worker

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25


@dataclass(frozen=True)
class ShownRow:
    """One row.

    Args:
        row: its number in the partition.
        prompt: as the model gets it, special tokens visible; ``None`` where there is none.
        prompt_tokens: of it, if the engine tells.
        n_ctx: tokens that prompt and answer may have together, if the engine has such a limit.
        answer: the model's.
        error: why there is no answer.
    """

    row: int
    prompt: str | None = None
    prompt_tokens: int | None = None
    n_ctx: int | None = None
    answer: str | None = None
    error: str | None = None


def show_rows(
    job: Job,
    partition: Partition,
    count: int,
    resolver: Resolver = resolve_location,
    should_stop: Callable[[], bool] = lambda: False,
    announce: Callable[[str], None] = log.info,
) -> list[ShownRow]:
    """Ask the model for the first rows of a partition, and tell what it got and what it said. Nothing is written.

    Args:
        job: what to do.
        partition: whose rows.
        count: of them.
        resolver: opens paths and URLs.
        should_stop: whether to end soon.
        announce: takes a line when the job's GPUs are taken, and one when it has them.

    Raises:
        MullamaError: the input, the model or the engine is not what the job needs.
    """
    source = partition.open(job.schema_drift)
    job.template.require_columns(source.schema.names, partition.input.url)
    job.template.require_types(source.schema, partition.input.url)
    image_root = None if job.picture_root is None else resolver(job.picture_root)
    template = template_with_files(job, partition, source.schema, image_root)
    rendered: list[str | RowError] = []
    for batch in source.batches(template.distinct_columns):
        rendered += template.render(batch.slice(0, count - len(rendered)))
        if len(rendered) >= count:
            break
    rows = [
        ShownRow(row, error=f"{text.error_type.value}: {text.message}") if isinstance(text, RowError) else ShownRow(row)
        for row, text in enumerate(rendered)
    ]
    asked = {row: text for row, text in enumerate(rendered) if isinstance(text, str)}
    if asked:
        model = prepare_model(job, resolver)
        settings = replace(engine_settings(job, model), rows=len(asked), show_prompts=True)

        def raise_if_stopped() -> None:
            if should_stop():
                raise JobStoppedError("Stopped before the rows were shown; nothing was written.")

        with lease_gpus(GpuRequest(job.gpus), raise_if_stopped, announce) as lease:
            _ask(job.engine_spec.name, settings, lease.environments[0], asked, rows, raise_if_stopped)
    return rows


def _ask(
    engine: str,
    settings: Any,
    environment: Mapping[str, str],
    asked: dict[int, str],
    rows: list[ShownRow],
    raise_if_stopped: Callable[[], None],
) -> None:
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    worker = Worker(engine, settings, events.put, environment)
    try:
        open_rows = set(asked)
        n_ctx: int | None = None
        while open_rows:
            raise_if_stopped()
            try:
                event = events.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if isinstance(event, Started):
                n_ctx = event.info.n_ctx
                worker.send(batch_of([(row, 1, text) for row, text in asked.items()]))
            elif isinstance(event, ShownPrompt):
                tokens = event.tokens or None
                rows[event.row] = replace(rows[event.row], prompt=event.prompt, prompt_tokens=tokens, n_ctx=n_ctx)
            elif isinstance(event, Outcomes):
                for outcome in event.batch.to_pylist():
                    open_rows.discard(outcome["row"])
                    rows[outcome["row"]] = _answered(rows[outcome["row"]], outcome)
            elif isinstance(event, Refused):
                raise event.error
            elif isinstance(event, Exited):
                raise ModelLoadError(f"The worker {event.how} while it had the rows to show; its last words are above.")
    finally:
        worker.stop()


def _answered(shown: ShownRow, outcome: dict[str, Any]) -> ShownRow:
    tokens = shown.prompt_tokens or outcome["prompt_tokens"]
    if outcome["error_type"] is not None:
        error = f"{outcome['error_type']}: {outcome['error']}"
        return replace(shown, prompt_tokens=tokens, error=error, answer=outcome.get("response"))
    vector = outcome.get("embedding")
    answer = outcome.get("response") if vector is None else f"a vector of {len(vector)} numbers"
    return replace(shown, prompt_tokens=tokens, answer=answer)
