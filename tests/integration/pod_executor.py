"""An executor that starts tasks as Airflow's KubernetesExecutor does, but each in a process group instead of a pod."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.executors.base_executor import BaseExecutor

# The one process that a pod's first container has: its kubelet sends SIGTERM to it, and to no other.
COMMAND = ("-m", "airflow.sdk.execution_time.execute_workload", "--json-string")


class PodExecutor(BaseExecutor):  # type: ignore[misc]
    """Knows of a task what it knows of a pod: that it runs, or how it ended."""

    def start(self) -> None:
        """Nothing runs yet."""
        self._pods: dict[Any, subprocess.Popen[bytes]] = {}

    def _process_workloads(self, workload_items: Sequence[Any]) -> None:
        for workload in workload_items:
            key = workload.ti.key
            log = Path(os.environ["AIRFLOW_HOME"]) / f"pod-{key.task_id}-{key.try_number}.log"
            with log.open("wb") as output:
                self._pods[key] = subprocess.Popen(
                    [sys.executable, *COMMAND, workload.model_dump_json()],
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            del self.queued_tasks[key]
            self.running.add(key)

    def sync(self) -> None:
        """Tell the scheduler of those that have ended."""
        for key, pod in list(self._pods.items()):
            if pod.poll() is not None:
                del self._pods[key]
                (self.fail if pod.returncode else self.success)(key)

    def end(self) -> None:
        """Wait for nothing: what still runs is ended with the server."""
        self.terminate()

    def terminate(self) -> None:
        """End what still runs."""
        for pod in self._pods.values():
            pod.kill()
