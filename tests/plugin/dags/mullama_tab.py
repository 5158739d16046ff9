"""Tasks for the tab to show: finished, failed, mapped, added up, not ours; and one that runs long."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import DAG, task

from airflow_mullama.decorators import mullama_generate_task
from airflow_mullama.operators import MullamaEmbedOperator, MullamaGenerateOperator, MullamaSummaryOperator

LAKE = os.environ["AIRFLOW_MULLAMA_TEST_LAKE"]
ECHO: dict[str, Any] = {"model": "echo", "prompt_template": "{text}"}


class NightlyEmbedding(MullamaEmbedOperator):
    """Somebody's own operator."""


class WeeklySummary(MullamaSummaryOperator):
    """Likewise."""


with DAG("mullama_tab", schedule=None, catchup=False):
    MullamaGenerateOperator(
        task_id="finished",
        input_path=[f"{LAKE}/ds=1/rows.parquet", f"{LAKE}/ds=2/rows.parquet"],
        output_path=f"{LAKE}-out/it's <img src=x onerror=alert(1)> [a] 100%",
        output_prefix="My ",
        engine_options={"faults": {"fail": [3, 5]}},
        max_retries=0,
        **ECHO,
    )
    over_budget = MullamaGenerateOperator(
        task_id="over_budget",
        input_path=f"{LAKE}/ds=1/rows.parquet",
        output_path=f"{LAKE}-out/over_budget.parquet",
        engine_options={"faults": {"fail": [0, 1, 2, 3]}},
        max_retries=0,
        max_error_ratio=0.01,
        model="echo",
        prompt_template="For <b>{{ run_id }}</b>: {text}",
    )
    MullamaSummaryOperator(task_id="of_failed", manifests=over_budget.output, max_missing=1)
    MullamaGenerateOperator(
        task_id="unpushed",
        input_path=f"{LAKE}/ds=1/rows.parquet",
        output_path=f"{LAKE}-out/unpushed.parquet",
        do_xcom_push=False,
        **ECHO,
    )
    mapped = MullamaGenerateOperator.partial(
        task_id="mapped",
        map_index_template="{{ partition }}",
        output_path=f"{LAKE}-out/mapped",
        **ECHO,
    ).expand(input_path=[f"{LAKE}/ds=1", f"{LAKE}/ds=2", f"{LAKE}/ds=3"])
    MullamaSummaryOperator(task_id="summary", manifests=mapped.output, max_missing=1)
    WeeklySummary(task_id="own_summary", manifests=mapped.output)
    NightlyEmbedding(
        task_id="subclass",
        input_path=f"{LAKE}/ds=1/rows.parquet",
        output_path=f"{LAKE}-out/subclass.parquet",
        model="echo",
        text_column="text",
    )

    @mullama_generate_task(output_path=f"{LAKE}-out/decorated.parquet", **ECHO)
    def decorated() -> str:
        return f"{LAKE}/ds=1/rows.parquet"

    decorated()

    @task
    def foreign() -> dict[str, int]:
        return {"rows": 1}

    foreign()

with DAG("mullama_slow_tab", schedule=None, catchup=False):
    MullamaGenerateOperator(
        task_id="slow",
        input_path=[f"{LAKE}/ds=3/rows.parquet", f"{LAKE}/ds=1/rows.parquet"],
        output_path=f"{LAKE}-out/slow",
        engine_options={"delay_s": 1.0, "n_parallel": 4, "faults": {"fail": [1]}},
        max_retries=0,
        **ECHO,
    )
