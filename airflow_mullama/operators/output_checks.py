"""What the operators check of their paths before any work: an output of one inside the output of another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from airflow_mullama.arguments import OneOf, require
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.storage.addresses import refuse_credentials, shown_address
from airflow_mullama.storage.hive import is_data, is_hive_segment, is_parquet

IF_INPUT_MISSING = ("fail", "skip", "empty")


def require_if_input_missing(value: str) -> None:
    """Check an ``if_input_missing`` argument.

    Raises:
        ConfigurationError: it is not one of the three.
    """
    require("if_input_missing", value, OneOf(IF_INPUT_MISSING))


def refuse_credentials_in_paths(operator: Any) -> None:
    """Refuse a URL that holds a password or a signature, before anything is said of it.

    Raises:
        ConfigurationError: shows nothing of it.
    """
    for name in ("input_path", "output_path"):
        paths = getattr(operator, name)
        for path in [paths] if isinstance(paths, (str, os.PathLike)) else list(paths or ()):
            refuse_credentials(os.fspath(path), f"The {name}")


def refuse_nested_outputs(operator: Any) -> None:
    """Refuse an output directory inside that of another task of the DAG, or around it.

    Whoever reads the outer one, another task included, would read the inner one with it. The same directory for two
    tasks is allowed (they may write partitions of their own), and so are places that differ by hive segments alone. Of
    the other tasks only paths without a template are known here.

    Args:
        operator: with its ``output_path`` rendered.

    Raises:
        ConfigurationError: names both tasks and directories.
    """
    dag = operator.get_dag()
    others = [task for task in dag.tasks if task.task_id != operator.task_id] if dag else []
    for ours in _directories(operator.output_path):
        for task in others:
            for theirs in _directories(_output_path_of(task)):
                if _lies_below(ours, theirs) or _lies_below(theirs, ours):
                    shown, other = shown_address(ours), shown_address(theirs)
                    raise ConfigurationError(
                        f"The output_path {shown!r} of task {operator.task_id!r} and {other!r} of task "
                        f"{task.task_id!r} lie in each other, so whoever reads the outer one would read both; give "
                        "them directories beside each other."
                    )


def _output_path_of(task: Any) -> Any:
    from airflow_mullama.operators.base import MullamaOperator

    if isinstance(task, MullamaOperator):
        return task.output_path
    if isinstance(getattr(task, "operator_class", None), type) and issubclass(task.operator_class, MullamaOperator):
        return task.partial_kwargs.get("output_path")
    return None


def _directories(paths: Any) -> Iterator[str]:
    listed: Iterable[Any] = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    if not isinstance(listed, (list, tuple)):
        return
    for path in listed:
        if isinstance(path, (str, os.PathLike)) and "{{" not in os.fspath(path) and "{%" not in os.fspath(path):
            yield os.fspath(path).rstrip("/")


def _lies_below(inner: str, outer: str) -> bool:
    if not inner.startswith(f"{outer}/"):
        return False
    between = inner[len(outer) + 1 :].split("/")
    *directories, last = between
    names = directories if is_parquet(last) else between
    return not all(map(is_hive_segment, names)) and all(map(is_data, between))
