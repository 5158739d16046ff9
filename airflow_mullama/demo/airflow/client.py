"""The few requests the demo makes of Airflow's REST API, with the standard library alone."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ENDED_STATES = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
_PAGE = 100


@dataclass(frozen=True)
class TaskInstance:
    """One task of a run, or one of its mapped instances.

    Args:
        task_id: its task.
        map_index: -1 where the task is not mapped.
        name: what the UI calls it: for a partition's task the partition.
        state: Airflow's; ``None`` before it is scheduled.
        try_number: the attempt it is in, from 1; 0 before the first.
        operator: name of the operator's class.
    """

    task_id: str
    map_index: int
    name: str
    state: str | None
    try_number: int
    operator: str

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDED_STATES


class AirflowClient:
    """Talks to one API server that asks for no password.

    Args:
        url: of the server, without a path.
        timeout: seconds for one request.
    """

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        self._url = url
        self._timeout = timeout
        self._token: str | None = None
        # The server is on this machine: a proxy that the environment names cannot reach it.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str) -> Any:
        """Read one resource.

        Raises:
            OSError: the server does not answer, or answers with an error.
        """
        return self._request("GET", path, None)

    def health(self) -> Mapping[str, Any]:
        """What each component last said of itself."""
        health: Mapping[str, Any] = self.get("/api/v2/monitor/health")
        return health

    def warm(self) -> None:
        """Have the API of tasks answer once: its first answer takes seconds, and the first task would wait for it."""
        self.get("/execution/health")

    def dag(self, dag_id: str) -> Mapping[str, Any] | None:
        """What Airflow knows of a DAG, if it knows it."""
        try:
            dag: Mapping[str, Any] = self.get(f"/api/v2/dags/{_quote(dag_id)}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return dag

    def import_errors(self) -> list[str]:
        """Why DAG files could not be read: one text for each such file, the file's name first."""
        errors = self.get("/api/v2/importErrors")["import_errors"]
        return [f"{error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}" for error in errors]

    def trigger(self, dag_id: str, run_id: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Start a run; its logical date is now.

        Args:
            dag_id: of which DAG.
            run_id: what it is called.
            parameters: other values than the DAG's own of its ``params``.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        body = {"dag_run_id": run_id, "logical_date": now, "conf": dict(parameters or {})}
        self._request("POST", f"/api/v2/dags/{_quote(dag_id)}/dagRuns", body)

    def run_state(self, dag_id: str, run_id: str) -> str:
        """``queued``, ``running``, ``success`` or ``failed``."""
        return str(self.get(_run_path(dag_id, run_id))["state"])

    def latest_run(self, dag_id: str) -> str | None:
        """The id of the run that was started last."""
        path = f"/api/v2/dags/{_quote(dag_id)}/dagRuns?limit=1&order_by=-run_after"
        try:
            runs = self.get(path)["dag_runs"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return str(runs[0]["dag_run_id"]) if runs else None

    def fail_unfinished_runs(self) -> None:
        """End the runs, and their tasks, that an interrupted earlier demo left unfinished."""
        for state in ("queued", "running"):
            for run in self.get(f"/api/v2/dags/~/dagRuns?state={state}")["dag_runs"]:
                self._request("PATCH", _run_path(run["dag_id"], run["dag_run_id"]), {"state": "failed"})

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """All tasks of a run, as they are now."""
        instances: list[TaskInstance] = []
        while True:
            path = f"{_run_path(dag_id, run_id)}/taskInstances?limit={_PAGE}&offset={len(instances)}"
            answer = self.get(path)
            instances.extend(_task_instance(value) for value in answer["task_instances"])
            if len(instances) >= answer["total_entries"] or not answer["task_instances"]:
                return instances

    def xcom(self, dag_id: str, run_id: str, instance: TaskInstance, key: str = "return_value") -> Any:
        """What a task left under ``key``; ``None`` if nothing."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{_quote(instance.task_id)}/xcomEntries/{_quote(key)}"
        try:
            return self.get(f"{path}?map_index={instance.map_index}&deserialize=false&stringify=false")["value"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        try:
            return self._answer(method, path, body)
        except urllib.error.HTTPError as error:
            if error.code != 401 or self._token is not None:
                raise
        # Airflow 3.1 wants a token even where everybody is an administrator, and gives everybody one.
        self._token = str(self._answer("GET", "/auth/token", None)["access_token"])
        return self._answer(method, path, body)

    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - our own server's URL, always http
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json",
                "Accept": "application/json",
                **({"Authorization": f"Bearer {self._token}"} if self._token else {}),
            },
        )
        with self._opener.open(request, timeout=self._timeout) as answer:
            return json.load(answer)


def run_url(base_url: str, dag_id: str, run_id: str) -> str:
    """The page of a run in Airflow's UI."""
    return f"{base_url}/dags/{_quote(dag_id)}/runs/{_quote(run_id)}"


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{_quote(dag_id)}/dagRuns/{_quote(run_id)}"


def _quote(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def _task_instance(value: Mapping[str, Any]) -> TaskInstance:
    task_id, map_index = str(value["task_id"]), int(value["map_index"])
    name = value.get("rendered_map_index") or (task_id if map_index < 0 else f"{task_id} {map_index}")
    return TaskInstance(
        task_id=task_id,
        map_index=map_index,
        name=str(name),
        state=value["state"],
        try_number=int(value["try_number"] or 0),
        operator=str(value.get("operator_name") or value.get("operator") or ""),
    )
