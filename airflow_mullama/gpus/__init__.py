"""GPUs: which there are, and which of them a task has for itself."""

from __future__ import annotations

from airflow_mullama.gpus.devices import Gpu, list_gpus
from airflow_mullama.gpus.lease import GpuLease, lease_gpus
from airflow_mullama.gpus.request import GpuRequest

__all__ = ["Gpu", "GpuLease", "GpuRequest", "lease_gpus", "list_gpus"]
