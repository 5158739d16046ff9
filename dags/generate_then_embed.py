"""Tags for support tickets, then embeddings of the tagged tickets: two DAGs to copy, the second started by the first.

The first one announces each partition it wrote, and the second gets a run for each: a day's embeddings begin when that
day's tags are there, whatever becomes of the other days.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, dag, task

from airflow_mullama.operators import MullamaEmbedOperator, MullamaGenerateOperator

try:  # Airflow 3.3 and newer
    from airflow.sdk import PartitionedAssetTimetable, PartitionedAtRuntime
except ImportError:  # before: one run for whatever is new, and partitions that are up to date cost nothing
    PartitionedAssetTimetable = PartitionedAtRuntime = None

# A directory, or an object store's URL such as s3://bucket/lake.
LAKE = os.environ.get("AIRFLOW_MULLAMA_LAKE", "/data/lake")
TAGGED = f"{LAKE}/tickets_with_tags"
# What the two DAGs know each other by.
TAGGED_TICKETS = Asset("tickets_with_tags")
ARGUMENTS = {"retries": 2, "retry_delay": timedelta(seconds=10)}
TAGS = {
    "type": "object",
    "properties": {
        "category": {"enum": ["billing", "shipping", "account_access", "technical", "refund", "cancellation", "other"]},
        "urgency": {"enum": ["low", "normal", "high"]},
    },
    "required": ["category", "urgency"],
}


@dag(
    # The tasks say which partitions they wrote: each has the key of its hive directory, such as 2026-11-01.
    schedule=PartitionedAtRuntime() if PartitionedAtRuntime else None,
    catchup=False,
    tags=["airflow-mullama", "tickets"],
    default_args=ARGUMENTS,
)
def generate_then_embed() -> None:
    """Tag every ticket: one mapped task for each day's partition."""

    @task
    def partitions() -> list[Any]:
        from airflow_mullama import list_partitions

        return list_partitions(f"{LAKE}/tickets", TAGGED)

    MullamaGenerateOperator.partial(
        task_id="tag",
        map_index_template="{{ partition }}",
        prompt_template="Tag this ticket: {text}",
        model="demo:ticket-tagger",
        max_tokens=48,
        output_schema=TAGS,
        outlets=[TAGGED_TICKETS],  # its events carry the manifest: extra["manifest"], extra["partitions"]
    ).expand_kwargs(partitions())


@dag(
    schedule=PartitionedAssetTimetable(assets=TAGGED_TICKETS) if PartitionedAssetTimetable else [TAGGED_TICKETS],
    catchup=False,
    tags=["airflow-mullama", "tickets"],
    default_args=ARGUMENTS,
)
def embed_what_was_generated() -> None:
    """Put an embedding next to every tagged ticket of one day."""
    MullamaEmbedOperator(
        task_id="embed",
        input_path=TAGGED + ("/ds={{ partition_key }}" if PartitionedAssetTimetable else ""),
        output_path=f"{LAKE}/tickets_for_search",
        text_template="{category}, {urgency}: {text}",
        output_prefix="embed_",  # the tagged tickets have a status and an error of their own
        model="demo:minilm",
    )


generate_then_embed()
embed_what_was_generated()
