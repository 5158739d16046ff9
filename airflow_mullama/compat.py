"""The differences between Airflow versions, in one place: 3.1 and newer, features detected and never assumed."""

from __future__ import annotations

from typing import Any

try:  # 3.2 and newer
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSkipException,
    )
except ImportError:  # 3.1
    from airflow.exceptions import (  # type: ignore[attr-defined,no-redef]
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSkipException,
    )

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSkipException",
    "add_partition_keys",
    "announces_partitions",
    "function_arguments",
    "mask_secret",
    "openlineage_is_on",
    "setting",
    "statistics",
    "task_state_store",
]


def task_state_store(context: Any) -> Any:
    """The task's state store (3.3 and newer), or ``None``."""
    return context.get("task_state_store")


def setting(option: str, fallback: Any) -> str:
    """An option of the section ``[mullama]`` of Airflow's configuration."""
    try:  # 3.2 and newer
        from airflow.sdk.configuration import conf
    except ImportError:  # 3.1
        from airflow.configuration import conf
    return str(conf.get("mullama", option, fallback=fallback))


def mask_secret(secret: str) -> None:
    """Have Airflow put ``***`` for a text wherever it would stand in a log or a rendered template."""
    from airflow.sdk.log import mask_secret as mask

    mask(secret)


def statistics() -> Any:
    """What takes metrics: has ``incr``, ``gauge`` and ``timing``, each with ``tags``."""
    try:  # 3.2 and newer
        from airflow.sdk.observability import stats
    except ImportError:  # 3.1
        from airflow.stats import Stats as stats  # type: ignore[no-redef]  # noqa: N813
    return stats


def function_arguments(function: Any, arguments: Any, context: Any) -> Any:
    """What of a task's context the function of a decorated task takes by name."""
    try:  # 3.2 and newer
        from airflow.sdk.bases.decorator import determine_kwargs
    except ImportError:  # 3.1
        from airflow.utils.operator_helpers import determine_kwargs  # type: ignore[attr-defined]
    return determine_kwargs(function, arguments, context)


def announces_partitions(context: Any) -> bool:
    """Whether the DAG leaves it to its tasks to say which partitions of an asset they wrote (3.3 and newer).

    That is ``schedule=PartitionedAtRuntime()``. Elsewhere a task must not: an event with a partition key starts no DAG
    that waits for the asset as a whole, and a run that has a partition of its own has its key put on the event by
    Airflow.
    """
    dag = context.get("dag")
    return bool(getattr(getattr(dag, "timetable", None), "partitioned_at_runtime", False))


def add_partition_keys(event: Any, keys: list[str]) -> None:
    """Put partition keys on the event of an asset, where this Airflow's events have any."""
    if hasattr(event, "add_partitions"):
        event.add_partitions(keys)


def openlineage_is_on() -> bool:
    """Whether somebody collects lineage: the OpenLineage provider is installed, and configured."""
    try:
        from airflow.providers.openlineage import conf
    except ImportError:
        return False
    return not conf.is_disabled()
