"""Telling the rest of Airflow what a task wrote: its assets' events, metrics, lineage."""

from __future__ import annotations

import logging
from typing import Any

from airflow_mullama.compat import openlineage_is_on
from airflow_mullama.hooks.filesystems import resolve_in_task
from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.operators.assets import describe_outlets
from airflow_mullama.operators.lineage import remember_locations, remember_schemas
from airflow_mullama.operators.metrics import send_metrics

log = logging.getLogger(__name__)


def report(operator: Any, context: Any, job: Any, manifest: PartitionManifest) -> None:
    """Report finished work, also of a task that fails afterwards because too many rows did.

    Args:
        operator: keeps the manifest, for its link and for lineage.
        context: of the running task.
        job: what was done.
        manifest: of what was written.
    """
    operator.manifest = manifest
    # What others wait for may fail the task: a retry finds the output up to date. What is only looked at may not.
    describe_outlets(context, operator.outlets, manifest)
    try:
        send_metrics(context, manifest)
        if openlineage_is_on():
            operator.lineage_schemas = remember_schemas(job, manifest, resolve_in_task)
            operator.lineage_locations = remember_locations(manifest, resolve_in_task)
    except Exception as error:  # noqa: BLE001 - the work is done and published
        log.warning("the output is written; metrics or lineage are not complete: %s", error)
