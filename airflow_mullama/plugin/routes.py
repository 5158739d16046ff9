"""Addresses of the tab: where its files are served, and where Airflow's UI shows it."""

from __future__ import annotations

from urllib.parse import quote

URL_PREFIX = "/mullama"
TASK_PAGE = "task"
RUN_PAGE = "run"
ICON = "icon.svg"
DARK_ICON = "icon-dark.svg"

# The last segment of the tab's address in the UI; each view that a plugin adds has its own.
TASK_ROUTE = "mullama"
RUN_ROUTE = "mullama-run"


def task_tab(dag_id: str, run_id: str, task_id: str, map_index: int | None = None) -> str:
    """The tab of a task instance in Airflow's UI.

    Args:
        map_index: ``None`` or -1 where the task is not mapped.

    Returns:
        An address relative to ``[api] base_url``, whatever its path: the UI resolves links against it. Empty where an
        id is ``.`` or ``..``, which are steps within an address.
    """
    if {dag_id, run_id, task_id} & {".", ".."}:
        return ""
    mapped = f"mapped/{map_index}/" if map_index is not None and map_index >= 0 else ""
    return f"dags/{_quote(dag_id)}/runs/{_quote(run_id)}/tasks/{_quote(task_id)}/{mapped}plugin/{TASK_ROUTE}"


def _quote(segment: str) -> str:
    return quote(segment, safe="")
