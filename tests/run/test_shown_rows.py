"""Rows that are shown before anything is spent: the worker that answers them is as one of the job's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from airflow_mullama.errors import JobStoppedError
from airflow_mullama.gpus import GpuRequest, lease_gpus
from airflow_mullama.run import show_rows
from airflow_mullama.storage.partitions import Partition, discover_partitions

pytestmark = pytest.mark.usefixtures("no_worker_left")


@pytest.fixture
def partition(
    tmp_path: Path, write_parquet: Callable[..., Path], texts: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> Partition:
    """Some rows, on a machine of two GPUs."""
    monkeypatch.setenv("AIRFLOW_MULLAMA_GPUS", "0,1")
    monkeypatch.setenv("AIRFLOW_MULLAMA_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (found,) = discover_partitions(write_parquet(tmp_path / "in.parquet", texts(3)), tmp_path / "out.parquet")
    return found


def test_they_are_asked_on_a_gpu_of_the_job(
    partition: Partition, echo_job: Any, texts: Any, workers: Callable[[], list[psutil.Process]]
) -> None:
    taken = lease_gpus(GpuRequest("all"))
    lines: list[str] = []
    seen: set[str] = set()

    def announce(line: str) -> None:
        lines.append(line)
        taken.close()

    def look() -> bool:
        seen.update(one.environ()["CUDA_VISIBLE_DEVICES"] for one in workers())
        return False

    rows = show_rows(echo_job(gpus=["1"]), partition, 2, should_stop=look, announce=announce)

    assert [row.answer for row in rows] == texts(2)
    assert [line.partition(":")[0] for line in lines[:1]] == ["waiting for a GPU"]
    assert lines[1].startswith("computing on")
    assert seen == {"1"}
    lease_gpus(GpuRequest("all")).close()  # none is held any more


def test_a_stop_ends_the_waiting(partition: Partition, echo_job: Any, started_workers: Any) -> None:
    lines: list[str] = []
    with lease_gpus(GpuRequest("all")), pytest.raises(JobStoppedError, match="nothing was written"):
        show_rows(echo_job(gpus=1), partition, 2, should_stop=lambda: bool(lines), announce=lines.append)
    assert len(started_workers) == 0
