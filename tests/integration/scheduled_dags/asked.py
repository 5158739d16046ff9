"""A gate that asks a person."""

import os

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from airflow_mullama.operators import MullamaGateOperator

EVALUATION = {
    "rows": 10,
    "without_answer": 0,
    "answers": {"label": {"kind": "label", "accuracy": {"value": 0.7, "low": 0.4, "high": 0.9, "rows": 10}}},
}

with DAG("asked", schedule=None):
    gate = MullamaGateOperator(
        task_id="gate",
        evaluation=EVALUATION,
        thresholds={"accuracy": 0.9},
        if_below="ask",
        accepted_path=os.environ["AIRFLOW_MULLAMA_TEST_FOLDER"] + "/accepted.json",
    )
    gate >> EmptyOperator(task_id="backfill")
