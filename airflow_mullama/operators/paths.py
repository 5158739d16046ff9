"""What the operators check of their paths before any work: an output of one inside the output of another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from airflow_mullama.errors import ConfigurationError

IF_INPUT_MISSING = ("fail", "skip", "empty")


def require_if_input_missing(value: str) -> None:
    """Check an ``if_input_missing`` argument.

    Raises:
        ConfigurationError: it is not one of the three.
    """
    if value not in IF_INPUT_MISSING:
        raise ConfigurationError(
            f"if_input_missing is {value!r}; it must be one of {', '.join(map(repr, IF_INPUT_MISSING))}."
        )


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
                    raise ConfigurationError(
                        f"The output_path {ours!r} of task {operator.task_id!r} and {theirs!r} of task "
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
    names = directories if last.lower().endswith((".parquet", ".pq", ".parq")) else between
    return any("=" not in name for name in names) and not any(name.startswith(("_", ".")) for name in between)
