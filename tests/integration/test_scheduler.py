"""Tasks under a real scheduler: killed in the middle, told to end as a pod is, waiting for a person's word.

And what the rest of Airflow gets to see of a task, over REST, StatsD and OpenLineage. One Airflow serves all of this:
its start takes more than the tests do.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.demo.airflow.server import AirflowServer
from airflow_mullama.demo.lake import write_lake
from tests.integration.statsd_listener import StatsdListener

REPOSITORY = Path(__file__).parents[2]
DAGS = Path(__file__).with_name("scheduled_dags")
ROWS = 400
CHUNK_ROWS, N_PARALLEL = 20, 4  # as in the DAG file killed.py
# What Kubernetes gives a pod from SIGTERM to SIGKILL, unless it is told otherwise.
GRACE_SECONDS = 30
TOLD, UNTOLD = "sk-told-to-everybody-4711", "sk-never-told-to-anybody-4712"
DAYS = ("2026-11-01", "2026-11-02", "2026-11-03")

# Airflow itself is not imported here: a test session has one home for it, and the server has another.
AIRFLOW = tuple(map(int, importlib.metadata.version("apache-airflow-core").split(".")[:2]))
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(AIRFLOW < (3, 3), reason="the Airflow that they share has DAGs that need 3.3"),
]

openlineage = pytest.mark.skipif(
    importlib.util.find_spec("openlineage") is None, reason="the OpenLineage provider is not installed"
)
statsd = pytest.mark.skipif(importlib.util.find_spec("statsd") is None, reason="the package statsd is not installed")


def is_installed() -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.distribution("airflow-mullama") is not None
    return False


installed = pytest.mark.skipif(not is_installed(), reason="Airflow finds providers that are installed (make test)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tasks that are ended in the middle read and write."""
    folder = tmp_path_factory.mktemp("killed")
    for name in ("killed", "in_a_pod"):
        (folder / name).mkdir()
    pq.write_table(pa.table({"id": range(ROWS), "text": texts()}), folder / "in.parquet")
    return folder


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = tmp_path_factory.mktemp("lake")
    pq.write_table(pa.table({"id": range(60), "text": [f"ticket {row}" for row in range(60)]}), lake / "in.parquet")
    for number, day in enumerate(DAYS):
        (lake / "days" / f"ds={day}").mkdir(parents=True)
        column = [f"ticket {row} of {day}" if row else None for row in range(4 + number)]
        pq.write_table(pa.table({"id": range(len(column)), "text": column}), lake / "days" / f"ds={day}" / "a.parquet")
    write_lake(lake / "tickets", rows=140)
    for day in sorted((lake / "tickets").glob("ds=*"))[2:]:
        shutil.rmtree(day)  # two days are enough
    return lake


@pytest.fixture(scope="module")
def listener() -> Iterator[StatsdListener]:
    with StatsdListener() as listener:
        yield listener


@pytest.fixture(scope="module")
def events_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lineage") / "events.ndjson"


@pytest.fixture(scope="module")
def server(
    folder: Path,
    lake: Path,
    listener: StatsdListener,
    events_file: Path,
    migrated_home: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AirflowServer]:
    dags = tmp_path_factory.mktemp("dags")
    for file in (*DAGS.glob("*.py"), REPOSITORY / "dags" / "generate_then_embed.py"):
        shutil.copy(file, dags)
    transport = {"type": "file", "log_file_path": str(events_file), "append": True}
    environment = {
        "AIRFLOW_MULLAMA_LAKE": str(lake),
        "AIRFLOW_MULLAMA_TEST_FOLDER": str(folder),
        "AIRFLOW_CONN_KEYED": json.dumps({"conn_type": "mullama", "password": TOLD, "extra": {"model": "echo"}}),
        "AIRFLOW_CONN_UNTOLD": json.dumps({"conn_type": "mullama", "password": UNTOLD}),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor,PodExecutor:tests.integration.pod_executor.PodExecutor",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__METRICS__STATSD_ON": str(importlib.util.find_spec("statsd") is not None),
        "AIRFLOW__METRICS__STATSD_PORT": str(listener.port),
        "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        "AIRFLOW__MULLAMA__OUTPUT_LINK": "https://lake.example.com/{scheme}/{path}",
    }
    home = migrated_home(tmp_path_factory.mktemp("airflow") / "home")
    with AirflowServer(home, dags=dags, environment=environment, parallelism=4) as server:
        server.wait_for_dags(["killed", "in_a_pod", "asked", "watched", "generate_then_embed"])
        yield server


def texts() -> list[str]:
    return [f"ticket number {row}" for row in range(ROWS)]


class Run:
    """The run of one of the DAGs of `killed.py`, from its beginning until it is ended at half.

    No other task of this Airflow may have a worker meanwhile: these tests come first.
    """

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


class Watched:
    """The run of the DAG `watched`, from its beginning."""

    def __init__(self, server: AirflowServer) -> None:
        self.server = server
        self._path = "/api/v2/dags/watched/dagRuns/run/taskInstances"

    def get(self, task_id: str, below: str = "") -> Any:
        return self.server.client.get(f"{self._path}/{task_id}{below}")

    def ended(self, task_id: str) -> bool:
        return self.get(task_id)["state"] in ("success", "failed", "skipped", "upstream_failed")


@pytest.fixture(scope="module")
def watched(server: AirflowServer) -> Watched:
    server.client.trigger("watched", "run")
    return Watched(server)


def test_progress_is_in_the_state_store_while_the_task_runs(watched: Watched, eventually: Callable[..., Any]) -> None:
    def progress() -> Any:
        with contextlib.suppress(urllib.error.HTTPError):  # nothing is stored yet
            return watched.get("slow", "/state-store/progress")["value"]

    first = eventually(progress, seconds=120)
    assert 0 < first["done"] < first["total"] == 60
    assert watched.get("slow")["state"] == "running"
    eventually(lambda: watched.ended("slow"), seconds=120)
    assert progress()["done"] == 60


def test_a_task_links_to_its_output_and_its_tab(watched: Watched, lake: Path, eventually: Callable[..., Any]) -> None:
    eventually(lambda: watched.ended("over_budget"), seconds=120)
    address = f"https://lake.example.com/file/{str(lake).lstrip('/')}/over_budget"
    tab = "dags/watched/runs/run/tasks/{}/plugin/mullama"
    links = watched.get("over_budget", "/links")["extra_links"]
    assert links == {"Output": address, "Mullama": tab.format("over_budget")}
    eventually(lambda: watched.ended("gone"), seconds=120)
    links = watched.get("gone", "/links")["extra_links"]
    assert links == {"Output": None, "Mullama": tab.format("gone")}


def test_a_key_that_a_task_tells_is_masked(watched: Watched, eventually: Callable[..., Any]) -> None:
    eventually(lambda: watched.ended("keyed"), seconds=120)
    assert watched.get("keyed")["state"] == "success"
    log = json.dumps(watched.get("keyed", "/logs/1?full_content=true"))
    assert "the key is ***" in log
    assert "printed: ***" in log
    assert TOLD not in log
    assert TOLD not in json.dumps(watched.get("keyed")["rendered_fields"])


def test_a_key_is_never_told(watched: Watched, lake: Path, events_file: Path, eventually: Callable[..., Any]) -> None:
    eventually(lambda: watched.ended("over_budget"), seconds=120)
    seen = [json.dumps(watched.get("over_budget", below)) for below in ("", "/xcomEntries/manifest", "/links")]
    files = [path for path in watched.server.home.rglob("*.log") if path.is_file()]
    outputs = [path for path in (lake / "over_budget").rglob("*") if path.is_file()]
    assert any("task_id=over_budget" in str(path) for path in files)
    assert len(outputs) == 3
    seen += [path.read_bytes().decode("latin-1") for path in [*files, *outputs]]
    seen += [events_file.read_text()] if events_file.exists() else []
    assert [text for text in seen if UNTOLD in text] == []


def test_an_outlets_event_carries_the_manifest(watched: Watched, lake: Path, eventually: Callable[..., Any]) -> None:
    eventually(lambda: watched.ended("keyed"), seconds=120)
    (event,) = watched.server.client.get("/api/v2/assets/events?source_task_id=keyed")["asset_events"]
    assert event["extra"]["manifest"]["status_counts"] == {"success": 12, "skipped": 3}
    assert event["extra"]["partitions"][1] == {
        "partition_key": "2026-11-02",
        "output_path": str(lake / "keyed" / "ds=2026-11-02" / "part-00000.parquet"),
        "rows": 5,
    }
    # The DAG does not leave partitions to its tasks: a DAG that waits for the whole asset is to start.
    assert event.get("partition_key") is None


@statsd
def test_metrics_reach_statsd(watched: Watched, listener: StatsdListener, eventually: Callable[..., Any]) -> None:
    eventually(lambda: watched.ended("over_budget") and watched.ended("keyed"), seconds=120)
    eventually(lambda: "engine_duration" in listener.values("over_budget"), seconds=30)
    values = listener.values("over_budget")
    assert values["partitions.written"] == 3
    assert values["rows.success"] == 6
    assert values["rows.failed"] == values["errors.engine_error"] == 6
    assert values["rows.skipped"] == 3
    assert "errors.null_input" not in values
    assert values["rows_computed"] == 12
    manifest = watched.get("over_budget", "/xcomEntries/manifest?deserialize=true")["value"]
    assert values["tokens.prompt"] == manifest["prompt_tokens"] > 0
    assert values["tokens.completion"] == manifest["completion_tokens"] > 0
    assert values["rows_per_second"] > 0
    assert values["tokens_per_second"] > 0
    assert values["engine_duration"] > 0
    assert values["model_load_duration"] > 0
    eventually(lambda: "engine_duration" in listener.values("keyed"), seconds=30)
    assert listener.values("keyed")["rows.success"] == 12

    # Airflow's own, which tell of tasks that failed before they wrote anything.
    tags = {"dag_id=watched", "task_id=over_budget"}
    seen = [set(line.partition(":")[0].split(",")) for line in listener.lines()]
    assert {"airflow.operator_failures", "operator_name=MullamaGenerateOperator", *tags} in seen
    assert {"airflow.ti.finish", "state=failed", *tags} in seen


def events(file: Path, task_id: str, kind: str) -> list[dict[str, Any]]:
    """OpenLineage events of a kind of one task."""
    lines = file.read_text().splitlines() if file.exists() else []
    found = [json.loads(line) for line in lines]
    return [one for one in found if one["job"]["name"] == f"watched.{task_id}" and one["eventType"] == kind]


@openlineage
def test_lineage_of_a_task_that_ended_well(
    watched: Watched, lake: Path, events_file: Path, eventually: Callable[..., Any]
) -> None:
    eventually(lambda: watched.ended("keyed"), seconds=120)
    (event,) = eventually(lambda: events(events_file, "keyed", "COMPLETE"), seconds=60)
    (source,), (output,) = event["inputs"], event["outputs"]
    assert (source["namespace"], source["name"]) == ("file", str(lake / "days"))
    assert (output["namespace"], output["name"]) == ("file", str(lake / "keyed"))
    assert [field["name"] for field in source["facets"]["schema"]["fields"]] == ["id", "text"]
    fields = {field["name"]: field["type"] for field in output["facets"]["schema"]["fields"]}
    assert fields["embedding"].startswith("fixed_size_list<")
    assert source["inputFacets"]["inputStatistics"]["rowCount"] == 15
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 15
    assert output["outputFacets"]["outputStatistics"]["fileCount"] == 3
    written = sum(path.stat().st_size for path in (lake / "keyed").rglob("*.parquet"))
    assert output["outputFacets"]["outputStatistics"]["size"] == written
    partitions = output["outputFacets"]["subset"]["outputCondition"]["partitions"]
    assert [one["dimensions"] for one in partitions] == [{"ds": day} for day in DAYS]
    (budget,) = source["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert (budget["assertion"], budget["success"], budget["actual"]) == ("error_ratio", True, "0")


@openlineage
def test_lineage_of_a_task_over_its_error_budget(
    watched: Watched, lake: Path, events_file: Path, eventually: Callable[..., Any]
) -> None:
    eventually(lambda: watched.ended("over_budget"), seconds=120)
    (event,) = eventually(lambda: events(events_file, "over_budget", "FAIL"), seconds=60)
    (source,), (output,) = event["inputs"], event["outputs"]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 15
    found = {one["assertion"]: one for one in source["inputFacets"]["dataQualityAssertions"]["assertions"]}
    assert set(found) == {"error_ratio", "no_engine_error"}
    assert found["error_ratio"]["success"] is False
    assert (found["error_ratio"]["expected"], found["error_ratio"]["actual"]) == ("<= 0.1", "0.4")
    assert (found["no_engine_error"]["success"], found["no_engine_error"]["actual"]) == (False, "6")


@openlineage
def test_lineage_of_a_task_that_wrote_nothing(
    watched: Watched, lake: Path, events_file: Path, eventually: Callable[..., Any]
) -> None:
    eventually(lambda: watched.ended("gone"), seconds=120)
    (event,) = eventually(lambda: events(events_file, "gone", "FAIL"), seconds=60)
    assert [(one["namespace"], one["name"]) for one in event["inputs"]] == [("file", str(lake / "nothing"))]
    assert [(one["namespace"], one["name"]) for one in event["outputs"]] == [("file", str(lake / "gone"))]


@installed
def test_the_ui_has_the_connections_form(server: AirflowServer) -> None:
    (form,) = [one for one in server.client.get("/ui/connections/hook_meta") if one["connection_type"] == "mullama"]
    assert form["hook_name"] == "Mullama"
    assert list(form["extra_fields"]) == [
        "model",
        "model_sha256",
        "engine",
        "n_gpu_layers",
        "n_ctx",
        "n_parallel",
        "endpoint",
    ]
    assert form["extra_fields"]["n_ctx"]["schema"]["title"] == "Context"
    assert form["standard_fields"]["password"]["title"] == "API key"
    assert form["standard_fields"]["host"]["hidden"] is True


def test_the_second_dag_gets_a_run_for_each_partition(
    server: AirflowServer, lake: Path, eventually: Callable[..., Any]
) -> None:
    server.client.trigger("generate_then_embed", "run")
    eventually(lambda: server.client.run_state("generate_then_embed", "run") in ("success", "failed"), seconds=240)
    assert server.client.run_state("generate_then_embed", "run") == "success"
    days = sorted(path.name.removeprefix("ds=") for path in (lake / "tickets").glob("ds=*"))
    assert len(days) == 2

    def runs() -> list[dict[str, Any]]:
        found = server.client.get("/api/v2/dags/embed_what_was_generated/dagRuns")["dag_runs"]
        return list(found) if len(found) == len(days) and {one["state"] for one in found} <= {"success"} else []

    finished = eventually(runs, seconds=240)
    assert sorted(run["partition_key"] for run in finished) == days
    for day in days:
        tagged = pq.ParquetFile(lake / "tickets_with_tags" / f"ds={day}" / "part-00000.parquet").read()
        embedded = pq.ParquetFile(lake / "tickets_for_search" / f"ds={day}" / "part-00000.parquet").read()
        assert embedded.select(tagged.column_names).equals(tagged)
        assert embedded["embed_status"].to_pylist().count("success") > 0
