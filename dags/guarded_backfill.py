"""A sample, its evaluation, a gate, and only then the backfill of a week: a DAG to copy."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG, Param

from airflow_mullama.operators import (
    MullamaEvaluateOperator,
    MullamaGateOperator,
    MullamaGenerateOperator,
    MullamaListPartitionsOperator,
    MullamaSummaryOperator,
)

# A directory, or an object store's URL such as s3://bucket/lake.
LAKE = os.environ.get("AIRFLOW_MULLAMA_LAKE", "/data/lake")

# What both the sample and the backfill do: what the gate judged is what runs after it.
JOB = {
    "prompt_template": "Tag this ticket: {text}",
    "model": "demo:ticket-tagger",  # or /models/qwen3-8b-q4_k_m.gguf, or hf://owner/repo/file.gguf
    "max_tokens": "{{ params.max_tokens }}",
    "output_schema": {
        "type": "object",
        "properties": {
            "category": {
                "enum": [
                    "account_access",
                    "billing",
                    "cancellation",
                    "feature_request",
                    "other",
                    "refund",
                    "shipping",
                    "technical",
                ]
            },
            "sentiment": {"enum": ["positive", "neutral", "negative"]},
            "urgency": {"enum": ["low", "normal", "high"]},
        },
        "required": ["category", "sentiment", "urgency"],
    },
}

with DAG(
    "guarded_backfill",
    schedule=None,
    tags=["airflow-mullama", "tickets"],
    params={
        "labelled": Param(
            f"{LAKE}/tickets_labelled", type="string", description="tickets with the column true_category"
        ),
        "sample_rows": Param(200, type="integer", minimum=1),
        "sample": Param(f"{LAKE}/tickets_sample", type="string", description="where the tagged sample goes"),
        "least_accuracy": Param(0.85, type="number"),
        "tickets": Param(f"{LAKE}/tickets", type="string", description="Parquet, in directories ds=YYYY-MM-DD"),
        "tagged": Param(f"{LAKE}/tickets_tagged_guarded", type="string", description="where the tagged tickets go"),
        "first_day": Param("2026-03-02", type="string", format="date"),
        "last_day": Param("2026-03-08", type="string", format="date"),
        "max_tokens": Param(48, type="integer", minimum=1),
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    doc_md=__doc__,
) as dag:
    sample = MullamaGenerateOperator(
        task_id="sample",
        input_path="{{ params.labelled }}",
        output_path="{{ params.sample }}",
        sample="{{ params.sample_rows }}",
        max_error_ratio=1.0,  # how many failed is the gate's to judge
        **JOB,
    )
    evaluation = MullamaEvaluateOperator(
        task_id="evaluate", output_path="{{ params.sample }}", expected={"category": "true_category"}
    )
    # if_below="ask" has a person decide, in Airflow's Required actions.
    gate = MullamaGateOperator(
        task_id="gate",
        evaluation=evaluation.output,
        thresholds={"accuracy": "{{ params.least_accuracy }}", "without_answer": "<= 0.05"},
        accepted_path="{{ params.tagged }}/_accepted.json",  # the next sample may not be much worse than the last
        max_drop=0.03,
    )
    partitions = MullamaListPartitionsOperator(
        task_id="partitions",
        input_path="{{ params.tickets }}",
        output_path="{{ params.tagged }}",
        where={"ds": {"from": "{{ params.first_day }}", "to": "{{ params.last_day }}"}},
        max_tasks=3,
    )
    tagged = MullamaGenerateOperator.partial(task_id="tag", map_index_template="{{ partition }}", **JOB).expand_kwargs(
        partitions.output
    )
    MullamaSummaryOperator(task_id="summary", manifests=tagged.output)

    sample >> evaluation >> gate >> partitions
