"""A lake of many partitions in few tasks, with one account of the whole: a DAG to copy."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG, Param

from airflow_mullama.operators import (
    MullamaGenerateOperator,
    MullamaListPartitionsOperator,
    MullamaSummaryOperator,
)

# A directory, or an object store's URL such as s3://bucket/lake.
LAKE = os.environ.get("AIRFLOW_MULLAMA_LAKE", "/data/lake")
# A pool with as many slots as the GPU holds models: `airflow pools set gpu 1 "models at once"`, and name it here.
POOL = os.environ.get("AIRFLOW_MULLAMA_POOL", "default_pool")

with DAG(
    "many_partitions",
    schedule=None,
    tags=["airflow-mullama", "tickets"],
    params={
        "tickets": Param(f"{LAKE}/tickets", type="string", description="Parquet, in directories ds=YYYY-MM-DD"),
        "tagged": Param(f"{LAKE}/tickets_tagged_all", type="string", description="where the tagged tickets go"),
        "first_day": Param("2026-03-02", type="string", format="date"),
        "last_day": Param("2026-03-08", type="string", format="date"),
        "max_tasks": Param(3, type="integer", minimum=1, description="tasks; each loads the model once"),
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    doc_md=__doc__,
) as dag:
    # Days of very different size are shared out so that the tasks end at about the same time.
    partitions = MullamaListPartitionsOperator(
        task_id="partitions",
        input_path="{{ params.tickets }}",
        output_path="{{ params.tagged }}",
        where={"ds": {"from": "{{ params.first_day }}", "to": "{{ params.last_day }}"}},
        max_tasks="{{ params.max_tasks }}",
        balance="rows",
    )

    tagged = MullamaGenerateOperator.partial(
        task_id="tag",
        map_index_template="{{ partition }}",
        pool=POOL,
        prompt_template="Tag this ticket: {text}",
        model="demo:ticket-tagger",  # or /models/qwen3-8b-q4_k_m.gguf, or hf://owner/repo/file.gguf
        max_tokens=48,
    ).expand_kwargs(partitions.output)

    # Also runs if a task failed, and then fails itself: the last task decides whether the run is green.
    MullamaSummaryOperator(task_id="summary", manifests=tagged.output, max_error_ratio=0.05)
