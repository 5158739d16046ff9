"""The differences between Airflow versions, in one place: 3.1 and newer, features detected and never assumed."""

from __future__ import annotations

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
    "task_state_store",
]


def task_state_store(context: Any) -> Any:
    """The task's state store (3.3 and newer), or ``None``."""
    return context.get("task_state_store")
