"""LLM text and embeddings next to your Parquet rows, as Apache Airflow operators.

``GenerateJob``, ``EmbedJob`` and ``run_partition`` are the same without Airflow. Names are imported on first use, so
that the worker process and a DAG file load only what they need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from airflow_mullama.classification import ClassifyJob
    from airflow_mullama.jobs import EmbedJob, GenerateJob
    from airflow_mullama.manifest import summarize_manifests
    from airflow_mullama.mapping import list_partitions
    from airflow_mullama.runner import run_job, run_partition

_HOMES = {
    "ClassifyJob": "airflow_mullama.classification",
    "GenerateJob": "airflow_mullama.jobs",
    "EmbedJob": "airflow_mullama.jobs",
    "run_partition": "airflow_mullama.runner",
    "run_job": "airflow_mullama.runner",
    "list_partitions": "airflow_mullama.mapping",
    "summarize_manifests": "airflow_mullama.manifest",
}

__all__ = [
    "ClassifyJob",
    "EmbedJob",
    "GenerateJob",
    "__version__",
    "list_partitions",
    "run_job",
    "run_partition",
    "summarize_manifests",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
