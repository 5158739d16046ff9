"""What is read from the logs of a run's tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_mullama.demo.airflow.client import TaskInstance
from airflow_mullama.demo.airflow.task_logs import RunLogs
from airflow_mullama.run.runner import run_partition

LOG_LINES = """\
{"timestamp": "2026-03-02T00:00:00Z", "level": "info", "event": "[1/2] 50.0%", "logger": "airflow_mullama.progress"}
not JSON
{"event": "Task failed with exception", "logger": "task", "error_detail": [\
{"exc_type": "ModelNotFoundError", "exc_value": "no model"}, {"exc_type": "OSError", "exc_value": "its cause"}]}
{"event": "half a li"""


def test_logs_are_followed_by_whole_lines(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path, "tag_tickets", "demo")
    instance = TaskInstance("tag", 3, "ds=2026-03-05", "failed", 1, "")
    path = logs.path(instance)
    assert logs.last_error(instance) is None
    assert list(logs.new_lines()) == []
    path.parent.mkdir(parents=True)
    path.write_text(LOG_LINES)
    lines = list(logs.new_lines())
    assert [(line.task_id, line.map_index, line.attempt, line.event) for line in lines] == [
        ("tag", 3, 1, "[1/2] 50.0%"),
        ("tag", 3, 1, "Task failed with exception"),
    ]
    with path.open("a") as file:
        file.write('ne"}\n')
    assert [line.event for line in logs.new_lines()] == ["half a line"]
    assert list(logs.new_lines()) == []
    assert logs.last_error(instance) == "ModelNotFoundError: no model"


def test_how_far_a_partition_is_is_told_from_what_else_is_logged(
    tmp_path: Path,
    write_parquet: Callable[..., Path],
    texts: Callable[..., list[str]],
    echo_job: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source, target = write_parquet(tmp_path / "in.parquet", texts(4)), tmp_path / "out.parquet"
    logs = RunLogs(tmp_path, "tag_tickets", "demo")
    path = logs.path(TaskInstance("tag", 0, "ds=2026-03-05", "success", 1, ""))
    path.parent.mkdir(parents=True)
    with caplog.at_level("INFO"):
        run_partition(echo_job(), source, target)
        run_partition(echo_job(), source, target)
    records = [{"event": record.getMessage(), "logger": record.name} for record in caplog.records]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    told = [line.progress for line in logs.new_lines() if line.progress is not None]
    assert told[0].startswith("[")
    assert told[-2].startswith("[4/4] 100.0%")
    assert told[-1] == "up to date: nothing to do"
    assert len(told) < len(records)
