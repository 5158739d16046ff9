"""Embeddings for support tickets: a DAG to copy."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task

from airflow_mullama.operators import MullamaEmbedOperator, MullamaSummaryOperator

# A directory, or an object store's URL such as s3://bucket/lake.
LAKE = os.environ.get("AIRFLOW_MULLAMA_LAKE", "/data/lake")


@dag(
    schedule=None,
    catchup=False,
    tags=["airflow-mullama", "tickets"],
    params={
        "tickets": Param(f"{LAKE}/tickets", type="string", description="Parquet, in directories ds=YYYY-MM-DD"),
        "embedded": Param(f"{LAKE}/tickets_embedded", type="string", description="where the embedded tickets go"),
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
)
def embed_tickets() -> None:
    """Put an embedding next to every ticket, for search and clusters: one mapped task for each day's partition."""

    @task
    def partitions(params: dict[str, Any]) -> list[Any]:
        from airflow_mullama import list_partitions

        return list_partitions(params["tickets"], params["embedded"])

    embedded = MullamaEmbedOperator.partial(
        task_id="embed",
        map_index_template="{{ partition }}",
        text_column="text",
        truncate="end",  # the few that are longer than the model reads; the column `truncated` says which
        model="demo:minilm",  # or the path or URL of another embedding model's GGUF file
    ).expand_kwargs(partitions())

    # Also runs if a partition failed, and then fails itself: the last task decides whether the run is green.
    MullamaSummaryOperator(task_id="summary", manifests=embedded.output)


embed_tickets()
