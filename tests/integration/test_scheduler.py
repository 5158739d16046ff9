"""Tasks of a real scheduler: killed in the middle, told to end as a pod is, or waiting for a person's word.

The retry of a task that was ended goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.demo.airflow.server import AirflowServer

pytestmark = pytest.mark.integration

ROWS, CHUNK_ROWS, N_PARALLEL = 400, 20, 4
# What Kubernetes gives a pod from SIGTERM to SIGKILL, unless it is told otherwise.
GRACE_SECONDS = 30
DAG_FILE = """
import datetime
from airflow.sdk import DAG
from airflow_mullama.operators import MullamaGenerateOperator

try:
    from kubernetes.client import models as k8s
except ImportError:
    pod = None
else:  # for an executor that is not there: the others pass over it
    base = k8s.V1Container(name="base", image="none", resources=k8s.V1ResourceRequirements(limits={{"none": "1"}}))
    pod = {{"pod_override": k8s.V1Pod(spec=k8s.V1PodSpec(containers=[base]))}}

for dag_id, executor in (("killed", None), ("in_a_pod", "PodExecutor")):
    with DAG(dag_id, schedule=None, start_date=datetime.datetime(2026, 11, 1)):
        MullamaGenerateOperator(
            task_id="job",
            executor=executor,
            executor_config=pod,
            input_path={source!r},
            output_path={folder!r} + "/" + dag_id + "/out.parquet",
            prompt_template="say {{text}}",
            model="echo",
            engine_options={{
                "delay_s": 0.1, "n_parallel": {n_parallel}, "request_log": {folder!r} + "/" + dag_id + "/requests"
            }},
            chunk_rows={chunk_rows},
            retries=2,
            retry_delay=datetime.timedelta(seconds=1),
        )
"""
ASKED_DAG_FILE = """
import datetime
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow_mullama.operators import MullamaGateOperator

EVALUATION = {
    "rows": 10,
    "without_answer": 0,
    "answers": {"label": {"kind": "label", "accuracy": {"value": 0.7, "low": 0.4, "high": 0.9, "rows": 10}}},
}
with DAG("asked", schedule=None, start_date=datetime.datetime(2026, 11, 1)):
    gate = MullamaGateOperator(
        task_id="gate", evaluation=EVALUATION, thresholds={"accuracy": 0.9}, if_below="ask", accepted_path=ACCEPTED
    )
    gate >> EmptyOperator(task_id="backfill")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def server(folder: Path, migrated_home: Callable[[Path], Path]) -> Iterator[AirflowServer]:
    source = folder / "in.parquet"
    pq.write_table(pa.table({"id": range(ROWS), "text": texts()}), source)
    dags = folder / "dags"
    for name in ("dags", "killed", "in_a_pod"):
        (folder / name).mkdir()
    arguments = {"source": str(source), "folder": str(folder), "chunk_rows": CHUNK_ROWS, "n_parallel": N_PARALLEL}
    (dags / "killed.py").write_text(DAG_FILE.format(**arguments))
    (dags / "asked.py").write_text(ASKED_DAG_FILE.replace("ACCEPTED", repr(str(folder / "accepted.json"))))
    executors = {"AIRFLOW__CORE__EXECUTOR": "LocalExecutor,PodExecutor:tests.integration.pod_executor.PodExecutor"}
    with AirflowServer(migrated_home(folder / "home"), dags=dags, environment=executors) as server:
        server.wait_for_dags(["killed", "in_a_pod", "asked"])
        yield server


def texts() -> list[str]:
    return [f"ticket number {row}" for row in range(ROWS)]


class Run:
    """The run of one of the DAGs, from its beginning until it is ended at half."""

    def __init__(self, server: AirflowServer, dag_id: str, folder: Path, eventually: Callable[..., Any]) -> None:
        self.server, self.dag_id, self.folder, self.eventually = server, dag_id, folder / dag_id, eventually
        self.path = f"/api/v2/dags/{dag_id}/dagRuns/run/taskInstances/job"
        server.client.trigger(dag_id, "run")
        eventually(lambda: self.staged() >= ROWS // CHUNK_ROWS // 2, seconds=120)
        (self.worker,) = self.workers()
        task = self.worker.parent()
        assert task is not None
        self.task = task

    def staged(self) -> int:
        return len(list(self.folder.glob("_mullama_stage/**/rows-*.arrow")))

    def asked(self) -> list[int]:
        return list(map(int, (self.folder / "requests").read_text().split()))

    def workers(self) -> list[psutil.Process]:
        """Engine workers below this server's scheduler."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            command, environment = process.info["cmdline"] or [], process.info["environ"] or {}
            if "airflow_mullama.worker" in command and environment.get("AIRFLOW_HOME") == str(self.server.home):
                found.append(process)
        return found

    def manifest_of_the_retry(self) -> dict[str, Any]:
        self.eventually(lambda: self.server.client.run_state(self.dag_id, "run") in ("success", "failed"), seconds=120)
        assert self.server.client.run_state(self.dag_id, "run") == "success"
        assert self.server.client.get(self.path)["try_number"] == 2
        manifest = self.server.client.get(f"{self.path}/xcomEntries/return_value?deserialize=true")["value"]
        assert self.workers() == []
        assert manifest["resumed_rows"] + manifest["computed_rows"] == ROWS
        answers = pq.read_table(self.folder / "out.parquet")["response"].to_pylist()
        assert answers == [f"say {text}" for text in texts()]
        return dict(manifest)


def test_a_task_that_is_killed_at_half_resumes_in_its_retry(
    server: AirflowServer, folder: Path, eventually: Callable[..., Any]
) -> None:
    run = Run(server, "killed", folder, eventually)
    os.kill(run.task.pid, signal.SIGKILL)
    durable = run.staged() * CHUNK_ROWS
    eventually(lambda: not run.worker.is_running(), seconds=30)
    assert not (run.folder / "out.parquet").exists()
    manifest = run.manifest_of_the_retry()
    assert manifest["resumed_rows"] >= durable
    repeated = len(run.asked()) - ROWS
    assert repeated <= 2 * N_PARALLEL + CHUNK_ROWS


def test_a_pod_that_is_taken_away_keeps_what_was_answered(
    server: AirflowServer, folder: Path, eventually: Callable[..., Any]
) -> None:
    run = Run(server, "in_a_pod", folder, eventually)
    supervisor = run.task.parent()
    assert supervisor is not None
    supervisor.terminate()  # as the kubelet does: the pod's first process, and no other
    eventually(lambda: not supervisor.is_running(), seconds=GRACE_SECONDS)
    assert not run.task.is_running()
    assert not run.worker.is_running()
    asked = len(run.asked())
    log = (server.home / "pod-job-1.log").read_text()
    assert f"of {ROWS} rows" in log
    manifest = run.manifest_of_the_retry()
    # What was in flight is asked again, and no row that was answered.
    assert asked - manifest["resumed_rows"] <= 2 * N_PARALLEL
    assert len(run.asked()) - ROWS <= 2 * N_PARALLEL


def test_a_person_is_asked_and_decides(server: AirflowServer, folder: Path, eventually: Callable[..., Any]) -> None:
    accepted = folder / "accepted.json"
    path = "/api/v2/dags/asked/dagRuns/run/taskInstances/gate"

    def asked() -> Any:
        details = server.client.get("/api/v2/dags/asked/dagRuns/run/hitlDetails")["hitl_details"]
        return details[0] if details else None

    server.client.trigger("asked", "run")
    question = eventually(asked, seconds=120)
    assert question["options"] == ["Approve", "Reject"]
    assert "| accuracy | 0.7 | >= 0.9 | **no** |" in question["body"]
    assert not accepted.exists()
    # Answered before the scheduler has seen it wait, Airflow 3.3 takes the task for one that somebody ended.
    eventually(
        lambda: "TaskInstance Finished: dag_id=asked, task_id=gate" in (server.home / "scheduler.log").read_text()
    )
    answer = {"chosen_options": ["Approve"], "params_input": {}}
    server.client._request("PATCH", f"{path}/-1/hitlDetails", answer)
    eventually(lambda: server.client.run_state("asked", "run") in ("success", "failed"), seconds=120)
    assert server.client.run_state("asked", "run") == "success"
    told = server.client.get(f"{path}/xcomEntries/return_value?deserialize=true")["value"]
    assert (told["passed"], told["verdicts"][0]["holds"]) == (True, False)
    assert "approved_by" in told
    assert json.loads(accepted.read_text())["rows"] == 10
