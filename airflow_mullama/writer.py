"""Who writes an output: named in the output's footer, so that nobody's work is replaced by accident."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Writer:
    """A task of a DAG, a command, or a Python program that says nothing of itself.

    Args:
        dag_id: of the task's DAG.
        task_id: of the task.
        map_index: which of the mapped tasks it was; ``None`` if it is not mapped. It does not tell writers apart, since
            another grouping of partitions gives them other numbers.
        command: such as ``airflow-mullama generate``, without its arguments, which may hold secrets.
    """

    dag_id: str | None = None
    task_id: str | None = None
    map_index: int | None = None
    command: str | None = None

    def is_same_as(self, other: Writer) -> bool:
        """Whether both are one task, or one command."""
        return (self.dag_id, self.task_id, self.command) == (other.dag_id, other.task_id, other.command)

    def __str__(self) -> str:
        if self.task_id is not None:
            mapped = "" if self.map_index is None else f" (map index {self.map_index})"
            return f"task {self.task_id!r}{mapped} of DAG {self.dag_id!r}"
        return "a Python program" if self.command is None else f"the command {self.command!r}"

    def to_json(self) -> dict[str, Any]:
        """Only what is known."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Writer:
        """The reverse of :meth:`to_json`; unknown keys of a later version are ignored.

        Raises:
            ValueError: it is not such a description.
        """
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        for name, one in known.items():
            if not isinstance(one, int if name == "map_index" else str):
                raise ValueError(f"{name} is {one!r}")
        return cls(**known)


def new_attempt() -> str:
    """A name for one attempt at a partition, which tells people its host and process, and that nobody else has."""
    return f"{platform.node() or 'localhost'}:{os.getpid()}:{os.urandom(4).hex()}"


A_PROGRAM = Writer()
"""Whoever calls :func:`airflow_mullama.run_partition` without saying who they are."""
