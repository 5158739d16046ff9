"""Ask again for the rows that failed in a way that may pass, such as a timeout: a DAG to copy."""

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

with DAG(
    "repair_failed_rows",
    schedule=None,  # by hand; or "@weekly"
    tags=["airflow-mullama", "tickets"],
    params={
        "tickets": Param(f"{LAKE}/tickets", type="string", description="Parquet, in directories ds=YYYY-MM-DD"),
        "tagged": Param(f"{LAKE}/tickets_tagged_daily", type="string", description="what is to be repaired"),
        "first_day": Param("2026-03-02", type="string", format="date"),
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    doc_md=__doc__,
) as dag:
    # One task for all: days with nothing to repair cost the reading of a footer, and the model is loaded at most once.
    partitions = MullamaListPartitionsOperator(
        task_id="partitions",
        input_path="{{ params.tickets }}",
        output_path="{{ params.tagged }}",
        where={"ds": {"from": "{{ params.first_day }}"}},
        max_tasks=1,
    )

    # What decides an answer (template, model, sampling, n_ctx, ...) must be as in the DAG that wrote the outputs, here
    # daily_backfill: with anything else every row would run. What may differ is how hard it is tried.
    repaired = MullamaGenerateOperator.partial(
        task_id="repair",
        map_index_template="{{ partition }}",
        prompt_template="Tag this ticket: {text}",
        model="demo:ticket-tagger",
        max_tokens=48,
        max_retries=5,
        row_timeout=600,  # seconds
        max_error_ratio=1.0,  # the summary decides
    ).expand_kwargs(partitions.output)

    MullamaSummaryOperator(task_id="summary", manifests=repaired.output, max_error_ratio=0.01)
