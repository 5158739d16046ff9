"""Tasks that the rest of Airflow is told of: one that runs for a while, one that ends well, two that fail."""

import logging
import os

from airflow.sdk import DAG, Asset

from airflow_mullama.hooks.mullama import MullamaHook
from airflow_mullama.operators import MullamaEmbedOperator, MullamaGenerateOperator

LAKE = os.environ["AIRFLOW_MULLAMA_LAKE"]


def tell_the_key(context):
    logging.getLogger(__name__).warning("the key is %s", MullamaHook("keyed").defaults().api_key)
    print("printed:", MullamaHook("keyed").defaults().api_key)  # noqa: T201 - a task may


with DAG("watched", schedule=None):
    MullamaGenerateOperator(
        task_id="slow",
        input_path=f"{LAKE}/in.parquet",
        output_path=f"{LAKE}/slow.parquet",
        prompt_column="text",
        model="echo",
        engine_options={"delay_s": 0.2, "n_parallel": 2},
    )
    MullamaGenerateOperator(
        task_id="over_budget",
        input_path=f"{LAKE}/days",
        output_path=f"{LAKE}/over_budget",
        prompt_template="say {text}",
        model="echo",
        engine_options={"faults": {"fail": [1, 2]}},
        max_retries=0,
        mullama_conn_id="untold",
    )
    MullamaEmbedOperator(
        task_id="keyed",
        input_path=f"{LAKE}/days",
        output_path=f"{LAKE}/keyed",
        text_column="text",
        mullama_conn_id="keyed",
        pre_execute=tell_the_key,
        outlets=[Asset("embedded_days")],
    )
    MullamaGenerateOperator(
        task_id="gone",
        input_path=f"{LAKE}/nothing/ds=2026-11-01",
        output_path=f"{LAKE}/gone",
        prompt_column="text",
        model="echo",
    )
