"""The differences between Airflow versions, in one place: 3.1 and newer, features detected and never assumed."""

from __future__ import annotations

import itertools
import logging
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
    "is_mapped",
    "mapped_arguments",
    "mask_secret",
    "name_mapped_task",
    "openlineage_is_on",
    "sdk_takes_threads",
    "setting",
    "statistics",
    "supervisor_socket",
    "task_state_store",
]


log = logging.getLogger(__name__)


def task_state_store(context: Any) -> Any:
    """The task's state store (3.3 and newer), or ``None``."""
    return context.get("task_state_store")


def sdk_takes_threads() -> bool:
    """Whether a thread may ask the supervisor for something while the main thread does: the SDK's socket has a lock.

    It has none in Airflow 3.1, nor what stands for the socket in ``dag.test()``.
    """
    from airflow.sdk.execution_time import task_runner

    return hasattr(getattr(task_runner, "SUPERVISOR_COMMS", None), "_thread_lock")


def supervisor_socket() -> int | None:
    """The descriptor of this process's socket to the supervisor that started it for a task.

    ``None`` where a task runs without one, as in ``dag.test()``.
    """
    from airflow.sdk.execution_time import task_runner

    try:
        socket = task_runner.SUPERVISOR_COMMS.socket
        return int(socket.fileno())
    except (AttributeError, ValueError, OSError):
        return None


def setting(option: str, fallback: Any) -> str:
    """An option of the section ``[mullama]`` of Airflow's configuration."""
    try:  # 3.2 and newer
        from airflow.sdk.configuration import conf
    except ImportError:  # 3.1
        from airflow.configuration import conf
    return str(conf.get("mullama", option, fallback=fallback))


def mask_secret(secret: str) -> None:
    """Have Airflow put ``***`` in place of a text wherever it would appear in a log or a rendered template."""
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
    """What the function of a decorated task takes, by name, from the task's context."""
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


def is_mapped(operator: Any) -> bool:
    """Whether a task is mapped: then Airflow stores all of its arguments, and not the templated ones only."""
    dag = operator.get_dag()
    return dag is not None and hasattr(dag.get_task(operator.task_id), "partial_kwargs")


def name_mapped_task(context: Any) -> None:
    """Show the name that ``map_index_template`` gives a mapped task now; Airflow would do it again when the task ends.

    Args:
        context: of the running task, with everything that the template may name.
    """
    task_instance, template = context["ti"], context.get("map_index_template")
    if not template or getattr(task_instance, "map_index", -1) < 0:
        return
    try:
        from airflow.sdk.execution_time import task_runner
        from airflow.sdk.execution_time.comms import SetRenderedMapIndex

        name = task_instance.task.dag.get_template_env().from_string(template).render(context)
        task_runner.SUPERVISOR_COMMS.send(SetRenderedMapIndex(rendered_map_index=name))
    except Exception:  # a name is not worth a task, and a template may name what is known only at its end
        log.debug("the mapped task is named when it ends", exc_info=True)


def mapped_arguments(operator: Any, context: Any) -> list[dict[str, Any]]:
    """The arguments of each of the tasks that a mapped task has become, as the DAG has them, by map index.

    Args:
        operator: one of them, or a task that is not mapped.
        context: of the running task.

    Returns:
        Nothing for a task that is not mapped. Of a decorated task, and of one in a mapped group, what is mapped are the
        arguments of a function: those of the task are the same for all.
    """
    dag = operator.get_dag()
    if dag is None or getattr(context["ti"], "map_index", -1) < 0:
        return []
    task = dag.get_task(operator.task_id)
    group = task.get_closest_mapped_task_group()
    expanded = getattr(group, "_expand_input", None) or getattr(task, "op_kwargs_expand_input", None)
    if expanded is not None:
        own = task.partial_kwargs if hasattr(task, "partial_kwargs") else vars(task)
        return [dict(own) for _ in _expanded(expanded, context)]
    if not hasattr(task, "expand_input"):
        return []
    return [{**task.partial_kwargs, **mapped} for mapped in _expanded(task.expand_input, context)]


def _expanded(expand_input: Any, context: Any) -> list[Any]:
    """The mapped arguments of each task, in the order of map indexes: that of the last argument changes first."""

    def resolved(value: Any) -> Any:
        return value.resolve(context) if hasattr(value, "resolve") else value

    if isinstance(expand_input.value, dict):
        values = {name: resolved(value) for name, value in expand_input.value.items()}
        listed = [list(value.items()) if isinstance(value, dict) else list(value) for value in values.values()]
        return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*listed)]
    return [resolved(item) for item in resolved(expand_input.value)]
