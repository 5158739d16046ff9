"""Tags for support tickets: a DAG to copy."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task

from airflow_mullama.operators import MullamaGenerateOperator, MullamaSummaryOperator

# A directory, or an object store's URL such as s3://bucket/lake.
LAKE = os.environ.get("AIRFLOW_MULLAMA_LAKE", "/data/lake")

# What an answer must look like: decoding is held to it, and it becomes typed columns of the output.
TAGS = {
    "type": "object",
    "properties": {
        "category": {
            "enum": [
                "billing",
                "shipping",
                "account_access",
                "technical",
                "refund",
                "cancellation",
                "feature_request",
                "other",
            ]
        },
        "sentiment": {"enum": ["positive", "neutral", "negative"]},
        "urgency": {"enum": ["low", "normal", "high"]},
    },
    "required": ["category", "sentiment", "urgency"],
}


@dag(
    schedule=None,
    catchup=False,
    tags=["airflow-mullama", "tickets"],
    params={
        "tickets": Param(f"{LAKE}/tickets", type="string", description="Parquet, in directories ds=YYYY-MM-DD"),
        "tagged": Param(f"{LAKE}/tickets_tagged", type="string", description="where the tagged tickets go"),
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
)
def tag_tickets() -> None:
    """Tag every ticket with its category, sentiment and urgency: one mapped task for each day's partition."""

    @task
    def partitions(params: dict[str, Any]) -> list[Any]:
        from airflow_mullama import list_partitions

        return list_partitions(params["tickets"], params["tagged"])

    tagged = MullamaGenerateOperator.partial(
        task_id="tag",
        map_index_template="{{ partition }}",
        prompt_template="Tag this ticket: {text}",
        model="demo:ticket-tagger",  # or /models/qwen3-8b-q4_k_m.gguf, or hf://owner/repo/file.gguf
        max_tokens=48,
        sampling={"temperature": 0.0},
        output_schema=TAGS,
    ).expand_kwargs(partitions())

    # Also runs if a partition failed, and then fails itself: the last task decides whether the run is green.
    MullamaSummaryOperator(task_id="summary", manifests=tagged.output)


tag_tickets()
