"""What a task did, in Airflow's metrics: StatsD, Datadog or OpenTelemetry, whichever Airflow sends to.

Their names are listed in ``docs/airflow.md``. Each has the tags ``dag_id`` and ``task_id``. Plain StatsD drops tags, so
whatever else distinguishes two numbers is part of the name.
"""

from __future__ import annotations

from typing import Any

from airflow_mullama.compat import statistics
from airflow_mullama.manifest import PartitionManifest

PREFIX = "mullama"


def send_metrics(context: Any, manifest: PartitionManifest) -> None:
    """Send what became of the rows of the partitions that were written, and what it cost.

    A partition that was up to date already counts as such and with nothing else, so that a sum over time counts no row
    twice for a run that had nothing to do.
    """
    stats, tags = statistics(), _tags(context)

    def count(name: str, amount: int) -> None:
        if amount:
            stats.incr(f"{PREFIX}.{name}", amount, tags=tags)

    partitions = manifest.partitions or [manifest]
    for one in partitions:
        count(f"partitions.{one.skipped or 'written'}", 1)
        if one.skipped:
            continue
        for status, rows in one.status_counts.items():
            count(f"rows.{status}", rows)
        for error_type, rows in one.failure_types.items():
            count(f"errors.{error_type}", rows)
        count("rows_computed", one.computed_rows)
        count("rows_deduplicated", one.deduplicated_rows)
        count("tokens.prompt", round(one.prompt_tokens * one.computed_share))
        count("tokens.completion", round(one.completion_tokens * one.computed_share))
        count("tokens.prompt_cached", one.cached_prompt_tokens)
    seconds = manifest.seconds
    if seconds.waiting_for_gpu:
        stats.timing(f"{PREFIX}.gpu_wait_duration", seconds.waiting_for_gpu * 1000, tags=tags)
    if manifest.computed_rows:
        stats.gauge(f"{PREFIX}.rows_per_second", round(manifest.rows_per_second, 2), tags=tags)
        stats.gauge(f"{PREFIX}.tokens_per_second", round(manifest.tokens_per_second, 2), tags=tags)
        stats.timing(f"{PREFIX}.engine_duration", seconds.engine * 1000, tags=tags)
        stats.timing(f"{PREFIX}.model_load_duration", seconds.model_load * 1000, tags=tags)


def _tags(context: Any) -> dict[str, str]:
    instance = context["ti"]
    return {"dag_id": instance.dag_id, "task_id": instance.task_id}
