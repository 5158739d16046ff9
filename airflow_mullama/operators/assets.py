"""What a task says of the assets it wrote: the manifest and, where the DAG is made for it, the partitions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from airflow_mullama.compat import add_partition_keys, announces_partitions
from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.storage.places import partition_key

log = logging.getLogger(__name__)

# Airflow stores the extra once for each partition's event, so a long list would grow with its square.
PARTITIONS_LISTED = 100
LONGEST_KEY = 250


def partitions_with_output(manifest: PartitionManifest) -> list[PartitionManifest]:
    """The partitions that have an output, written now or before: all but those that had no input."""
    return [one for one in manifest.partitions or [manifest] if one.skipped in (None, "up_to_date")]


def describe_outlets(context: Any, outlets: Sequence[Any], manifest: PartitionManifest) -> None:
    """Put the manifest on the events of a task's outlets, as ``extra["manifest"]``.

    ``extra["partitions"]`` lists the partitions, each with ``partition_key``, ``output_path`` and ``rows``, up to a
    hundred. In a DAG with ``schedule=PartitionedAtRuntime()`` (Airflow 3.3 and newer) each one's key is announced, so
    that a DAG that waits for the asset's partitions gets a run for each. Asset aliases are left to those who made them.

    Args:
        context: of the running task.
        outlets: the task's.
        manifest: of what was written.
    """
    from airflow.sdk import Asset
    from airflow.sdk.definitions.asset import AssetRef

    # Outlets may be other things as well, such as the entities of OpenLineage: they have no events.
    assets = [outlet for outlet in outlets if isinstance(outlet, (Asset, AssetRef))]
    if not assets:
        return
    partitions = partitions_with_output(manifest)
    extra = manifest.to_json()
    extra.pop("partitions", None)
    listed = [
        {
            "partition_key": partition_key(one.output_path, one.input_path),
            "output_path": one.output_path,
            "rows": one.rows,
        }
        for one in partitions
    ]
    keys = _usable([one["partition_key"] for one in listed]) if announces_partitions(context) else []
    for asset in assets:
        event = context["outlet_events"][asset]
        event.extra["manifest"] = extra
        event.extra["partition_count"] = len(listed)
        event.extra["partitions"] = listed[:PARTITIONS_LISTED]
        add_partition_keys(event, keys)


def _usable(keys: Sequence[Any]) -> list[str]:
    """The keys that Airflow takes. The work is done, so a key that it would refuse is logged and left out."""
    usable = []
    for key in keys:
        if key.strip() and len(key) <= LONGEST_KEY:
            usable.append(key)
        else:
            log.warning("the partition %r is not announced: Airflow takes keys of 1 to %d characters", key, LONGEST_KEY)
    return usable
