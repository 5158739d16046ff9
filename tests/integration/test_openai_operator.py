"""The openai engine inside real Airflow."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.made_pictures import RED, png

pytestmark = pytest.mark.integration

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from openai_server import MODEL, Asked, Reply, ScriptedServer, error  # noqa: E402

START = datetime.datetime(2026, 11, 1, tzinfo=datetime.timezone.utc)
KEY = "sk-of-the-connection"


def wants_key(asked: Asked) -> Reply | None:
    return None if asked.headers.get("Authorization") == f"Bearer {KEY}" else error(401, "wrong key")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    started = ScriptedServer(wants_key)
    yield started
    started.close()


def run_operator(run_dag: Callable[..., Any], dag_id: str, **arguments: Any) -> Any:
    from airflow.sdk import DAG

    from airflow_mullama.operators import MullamaGenerateOperator

    with DAG(dag_id, schedule=None, start_date=START) as dag:
        MullamaGenerateOperator(task_id="job", prompt_template="say {text}", retries=3, **arguments)
    return run_dag(dag).get_task_instance("job")


def test_endpoint_and_key_of_a_connection(
    run_dag: Callable[..., Any],
    server: ScriptedServer,
    tmp_path: Path,
    write_parquet: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    extra = {"model": MODEL, "engine": "openai", "engine_options": {"endpoint": server.url, "api_key": KEY}}
    monkeypatch.setenv("AIRFLOW_CONN_LLM_SERVER", json.dumps({"conn_type": "mullama", "extra": extra}))
    source = write_parquet(tmp_path / "in.parquet", ["one", None, "three"])
    instance = run_operator(
        run_dag,
        "openai_by_connection",
        input_path=str(source),
        output_path=str(tmp_path / "out.parquet"),
        mullama_conn_id="llm_server",
    )
    assert instance.state == "success"
    manifest = instance.xcom_pull(task_ids="job")
    assert (manifest["engine"], manifest["status_counts"]) == ("openai", {"success": 2, "skipped": 1})
    assert pq.read_table(tmp_path / "out.parquet")["response"].to_pylist() == ["say one", None, "say three"]
    assert KEY not in json.dumps(manifest) + capfd.readouterr().out + caplog.text
    assert KEY.encode() not in (tmp_path / "out.parquet").read_bytes()


def test_a_wrong_key_fails_the_task_at_once_and_is_not_retried(
    run_dag: Callable[..., Any],
    server: ScriptedServer,
    tmp_path: Path,
    write_parquet: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    source = write_parquet(tmp_path / "in.parquet", ["one"])
    instance = run_operator(
        run_dag,
        "openai_with_a_wrong_key",
        input_path=str(source),
        output_path=str(tmp_path / "out.parquet"),
        model=MODEL,
        engine="openai",
        engine_options={"endpoint": server.url},
    )
    assert instance.state == "failed"  # and not up_for_retry
    shown = capfd.readouterr().out + caplog.text
    assert "refuses the API key, or has none from us (401: wrong key)" in shown
    assert "sk-of-somebody-else" not in shown
    assert server.texts() == []


def test_a_server_that_still_loads_its_model_is_tried_again(
    run_dag: Callable[..., Any], server: ScriptedServer, tmp_path: Path, write_parquet: Callable[..., Path]
) -> None:
    lists = iter([{"data": []}])

    def answer(asked: Asked) -> Reply | None:
        empty = next(lists, None) if asked.path == "/v1/models" else None
        return None if empty is None else Reply(body=empty)

    server.answer = answer
    source = write_parquet(tmp_path / "in.parquet", ["one"])
    instance = run_operator(
        run_dag,
        "openai_without_a_model_at_first",
        input_path=str(source),
        output_path=str(tmp_path / "out.parquet"),
        model=MODEL,
        engine="openai",
        engine_options={"endpoint": server.url},
        retry_delay=datetime.timedelta(0),
    )
    assert (instance.state, instance.try_number) == ("success", 2)


@pytest.mark.parametrize("kind", ["generate", "classify"])
def test_rows_with_pictures_of_a_folder_that_the_run_names(
    run_dag: Callable[..., Any], server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from airflow.sdk import DAG

    from airflow_mullama.operators import MullamaClassifyOperator, MullamaGenerateOperator

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    folder = tmp_path / "photos" / "2026-11-01"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(png(RED))
    pq.write_table(pa.table({"photo": ["a.png", "../a.png"]}), tmp_path / "in.parquet")
    arguments: dict[str, Any] = {
        "task_id": "job",
        "model": MODEL,
        "engine": "openai",
        "engine_options": {"endpoint": server.url},
        "input_path": str(tmp_path / "in.parquet"),
        "output_path": str(tmp_path / "out.parquet"),
        "image_columns": ["{{ params.column }}"],
        "image_root": str(tmp_path / "photos") + "/{{ params.day }}",
        "max_error_ratio": 1.0,
    }
    params = {"column": "photo", "day": "2026-11-01"}
    with DAG(f"pictures_{kind}", schedule=None, start_date=START, params=params) as dag:
        if kind == "generate":
            MullamaGenerateOperator(prompt_template="What is it?", **arguments)
        else:
            MullamaClassifyOperator(labels=["cat", "dog"], max_retries=0, **arguments)
    assert run_dag(dag).get_task_instance("job").state == "success"
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert rows[1]["error_type"] == "unreadable_image"
    shown = [one.pictures for one in server.asked if one.path.endswith("completions") and one.text != "Say hello."]
    assert shown[0] == [("image/png", png(RED))]
