"""The operators: Airflow on one side, a job on the other."""

from __future__ import annotations

from airflow_mullama.operators.classify import MullamaClassifyOperator
from airflow_mullama.operators.embed import MullamaEmbedOperator
from airflow_mullama.operators.evaluate import MullamaEvaluateOperator
from airflow_mullama.operators.gate import MullamaGateOperator
from airflow_mullama.operators.generate import MullamaGenerateOperator
from airflow_mullama.operators.partitions import MullamaListPartitionsOperator
from airflow_mullama.operators.summary import MullamaSummaryOperator

__all__ = [
    "MullamaClassifyOperator",
    "MullamaEmbedOperator",
    "MullamaEvaluateOperator",
    "MullamaGateOperator",
    "MullamaGenerateOperator",
    "MullamaListPartitionsOperator",
    "MullamaSummaryOperator",
]
