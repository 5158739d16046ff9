"""Progress where Airflow users look: the task's log, and the task state store or an XCom while the task runs.

Airflow is told on a thread, so that it is never waited for. Where its SDK may not be called from one (in Airflow 3.1,
and in ``dag.test()``) it is told on the task's main thread.
"""

from __future__ import annotations

from typing import Any

from airflow_mullama.compat import sdk_takes_threads, task_state_store
from airflow_mullama.operators.background_sender import BackgroundSender
from airflow_mullama.progress import ProgressLog, Snapshot

PROGRESS_KEY = "progress"


class TaskProgress(ProgressLog):
    """Writes the log lines, and the same numbers under ``progress``. A context manager around the work.

    Args:
        context: of the running task. On Airflow 3.3 and newer the numbers go to its state store, which is readable
            over REST while the task runs; before that to an XCom.
    """

    def __init__(self, context: Any) -> None:
        self._store = task_state_store(context)
        self._task_instance = context.get("ti")
        self._sender = BackgroundSender(self._tell, in_background=sdk_takes_threads())

    def progress(self, snapshot: Snapshot) -> None:
        super().progress(snapshot)
        self._sender.offer(snapshot)

    def __enter__(self) -> TaskProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._sender.close()

    def _tell(self, snapshot: Snapshot) -> None:
        if self._store is not None:
            self._store.set(PROGRESS_KEY, snapshot.to_json())
        elif self._task_instance is not None:
            self._task_instance.xcom_push(key=PROGRESS_KEY, value=snapshot.to_json())
