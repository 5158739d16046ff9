"""A task of a real scheduler, killed in the middle: the retry goes on where it stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from airflow_mullama.demo.airflow_server import AirflowServer

pytestmark = pytest.mark.integration

ROWS, CHUNK_ROWS, N_PARALLEL = 400, 20, 4
DAG_FILE = """
import datetime
from airflow.sdk import DAG
from airflow_mullama.operators import MullamaGenerateOperator

with DAG("killed", schedule=None, start_date=datetime.datetime(2026, 11, 1)):
    MullamaGenerateOperator(
        task_id="job",
        input_path={source!r},
        output_path={target!r},
        prompt_template="say {{text}}",
        model="echo",
        engine_options={{"delay_s": 0.1, "n_parallel": {n_parallel}, "request_log": {request_log!r}}},
        chunk_rows={chunk_rows},
        retries=2,
        retry_delay=datetime.timedelta(seconds=1),
    )
"""


def workers_of(server: AirflowServer) -> list[psutil.Process]:
    """Engine workers below this server's scheduler."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        command, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        if "airflow_mullama.worker" in command and environment.get("AIRFLOW_HOME") == str(server.home):
            found.append(process)
    return found


def test_a_task_that_is_killed_at_half_resumes_in_its_retry(
    tmp_path: Path, write_parquet: Callable[..., Path], texts: Callable[..., list[str]], eventually: Callable[..., Any]
) -> None:
    source, target, request_log = tmp_path / "in.parquet", tmp_path / "out.parquet", tmp_path / "requests"
    write_parquet(source, texts(ROWS))
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "killed.py").write_text(
        DAG_FILE.format(
            source=str(source),
            target=str(target),
            request_log=str(request_log),
            chunk_rows=CHUNK_ROWS,
            n_parallel=N_PARALLEL,
        )
    )

    def staged() -> int:
        return len(list(tmp_path.glob("_mullama_stage/**/rows-*.arrow")))

    with AirflowServer(tmp_path / "home", dags=dags) as server:
        server.wait_for_dags(["killed"])
        server.client.trigger("killed", "run")
        eventually(lambda: staged() >= ROWS // CHUNK_ROWS // 2, seconds=120)
        (worker,) = workers_of(server)
        task = worker.parent()
        assert task is not None
        os.kill(task.pid, signal.SIGKILL)
        durable = staged() * CHUNK_ROWS
        eventually(lambda: not worker.is_running(), seconds=30)
        assert not target.exists()
        eventually(lambda: server.client.run_state("killed", "run") in ("success", "failed"), seconds=120)
        assert server.client.run_state("killed", "run") == "success"
        path = "/api/v2/dags/killed/dagRuns/run/taskInstances/job"
        assert server.client.get(path)["try_number"] == 2
        manifest = server.client.get(f"{path}/xcomEntries/return_value?deserialize=true")["value"]
        assert workers_of(server) == []
    assert manifest["resumed_rows"] >= durable
    assert manifest["resumed_rows"] + manifest["computed_rows"] == ROWS
    assert pq.read_table(target)["response"].to_pylist() == [f"say {text}" for text in texts(ROWS)]
    repeated = len(request_log.read_text().split()) - ROWS
    assert repeated <= 2 * N_PARALLEL + CHUNK_ROWS
