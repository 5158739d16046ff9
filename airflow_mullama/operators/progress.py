"""Progress where Airflow users look: the task's log, and the task state store or an XCom while the task runs.

Called on the task's main thread only: Airflow's SDK may not be called from another one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from airflow_mullama.compat import task_state_store
from airflow_mullama.progress import LogListener, Snapshot

log = logging.getLogger(__name__)

PROGRESS_KEY = "progress"


class TaskListener(LogListener):
    """Writes the log lines, and the same numbers under ``progress``.

    Args:
        context: of the running task. On Airflow 3.3 and newer the numbers go to its state store, which is readable
            over REST while the task runs; before that to an XCom.
        inputs: the task's inputs: of a list, the numbers say where in it the partition stands.
    """

    def __init__(self, context: Any, inputs: str | Sequence[str] = "") -> None:
        self._store = task_state_store(context)
        self._task_instance = context.get("ti")
        self._inputs = list(inputs) if isinstance(inputs, (list, tuple)) else []
        self._broken = False

    def progress(self, snapshot: Snapshot) -> None:
        super().progress(snapshot)
        if self._broken:
            return
        try:
            if self._store is not None:
                self._store.set(PROGRESS_KEY, self._numbers(snapshot))
            elif self._task_instance is not None:
                self._task_instance.xcom_push(key=PROGRESS_KEY, value=self._numbers(snapshot))
        except Exception as error:  # noqa: BLE001 - showing progress must never cost the work it is about
            self._broken = True
            log.warning("progress is shown in this log only: Airflow would not take it (%s)", error)

    def _numbers(self, snapshot: Snapshot) -> dict[str, Any]:
        if snapshot.partition not in self._inputs:  # one of those below a directory
            return snapshot.to_json()
        place = {"input_number": self._inputs.index(snapshot.partition) + 1, "input_count": len(self._inputs)}
        return {**snapshot.to_json(), **place}
