"""LLM text and embeddings next to your Parquet rows, as Apache Airflow operators.

``GenerateJob``, ``EmbedJob`` and ``run_partition`` are the same without Airflow. Names are imported on first use, so
that the worker process and a DAG file load only what they need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from airflow_mullama.version import __version__

if TYPE_CHECKING:
    from airflow_mullama.jobs.classify import ClassifyJob
    from airflow_mullama.jobs.embed import EmbedJob
    from airflow_mullama.jobs.generate import GenerateJob
    from airflow_mullama.manifest import summarize_manifests
    from airflow_mullama.run import run_job, run_partition
    from airflow_mullama.storage.mapped_tasks import list_partitions

_HOMES = {
    "ClassifyJob": "airflow_mullama.jobs.classify",
    "GenerateJob": "airflow_mullama.jobs.generate",
    "EmbedJob": "airflow_mullama.jobs.embed",
    "run_partition": "airflow_mullama.run",
    "run_job": "airflow_mullama.run",
    "list_partitions": "airflow_mullama.storage.mapped_tasks",
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
