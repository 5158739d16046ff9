"""Follows the logs of a run's tasks, which Airflow writes as files of JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from airflow_mullama.demo.airflow.client import TaskInstance

# Rows that are done, of how many.
PROGRESS_LINE: Final = re.compile(r"^\[(\d+)/(\d+)\] ")
_UP_TO_DATE = " is up to date"


@dataclass(frozen=True)
class LogLine:
    """One event in a task's log.

    Args:
        task_id: its task.
        map_index: -1 where the task is not mapped.
        attempt: from 1.
        logger: who wrote it.
        event: what was written.
        detail: everything that stands beside it.
    """

    task_id: str
    map_index: int
    attempt: int
    logger: str
    event: str
    detail: Mapping[str, Any]

    @property
    def progress(self) -> str | None:
        """What it says of how far the task is; ``None`` if nothing."""
        if self.logger != "airflow_mullama.progress":
            return None
        if PROGRESS_LINE.match(self.event):
            return self.event
        return "up to date: nothing to do" if _UP_TO_DATE in self.event else None


class RunLogs:
    """The logs of one run.

    Args:
        home: ``AIRFLOW_HOME``.
        dag_id: the run's DAG.
        run_id: the run.
    """

    def __init__(self, home: Path, dag_id: str, run_id: str) -> None:
        self.directory = home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"
        self._read: dict[Path, int] = {}

    def new_lines(self) -> Iterator[LogLine]:
        """Lines that were not there at the last call, task by task, in the order they were written."""
        for path in sorted(self.directory.rglob("attempt=*.log")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            whole = data.rfind(b"\n") + 1  # the last line may still be growing
            self._read[path] = self._read.get(path, 0) + whole
            yield from self._parse(path, data[:whole])

    def path(self, instance: TaskInstance, attempt: int | None = None) -> Path:
        """Where the log of one attempt of a task lies; by default that of its latest."""
        directory = self.directory / f"task_id={instance.task_id}"
        if instance.map_index >= 0:
            directory /= f"map_index={instance.map_index}"
        return directory / f"attempt={attempt or instance.try_number}.log"

    def last_error(self, instance: TaskInstance) -> str | None:
        """The sentence that the latest attempt of a task failed with."""
        path = self.path(instance)
        if not path.is_file():
            return None
        sentence = None
        for line in self._parse(path, path.read_bytes()):
            for error in line.detail.get("error_detail") or ():
                # The outermost error comes first, its causes after it; frames do not belong on a demo's screen.
                sentence = f"{error['exc_type']}: {error['exc_value']}"
                break
        return sentence

    def _parse(self, path: Path, data: bytes) -> Iterator[LogLine]:
        parts = dict(part.split("=", 1) for part in path.relative_to(self.directory).with_suffix("").parts)
        for line in data.splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue  # not Airflow's: something wrote to the file directly
            yield LogLine(
                task_id=parts["task_id"],
                map_index=int(parts.get("map_index", -1)),
                attempt=int(parts["attempt"]),
                logger=str(value.get("logger", "")),
                event=str(value.get("event", "")),
                detail=value,
            )
