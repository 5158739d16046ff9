"""The operators inside real Airflow, by ``dag.test()``."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import fail_points, run_job
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.storage.parquet.vector_columns import stored_type
from airflow_mullama.writer import Writer

pytestmark = pytest.mark.integration

REFERENCE = Path(__file__).parents[1] / "data" / "minilm-reference.parquet"
START = datetime.datetime(2026, 11, 1, tzinfo=datetime.timezone.utc)

RunOperator = Callable[..., Any]


@pytest.fixture
def run_operator(run_dag: Callable[..., Any], request: pytest.FixtureRequest) -> RunOperator:
    """Run one operator as a DAG of its own; returns the task instance of the finished run."""
    count = 0

    def run(operator: str, **arguments: Any) -> Any:
        nonlocal count
        from airflow.sdk import DAG

        import airflow_mullama.operators as operators

        count += 1
        name = "".join(character if character.isalnum() else "_" for character in request.node.name)
        with DAG(f"{name}_{count}", schedule=None, start_date=START) as dag:
            getattr(operators, operator)(task_id="job", **arguments)
        return run_dag(dag).get_task_instance("job")

    return run


def stored_value(instance: Any, key: str) -> Any:
    """What the task left in its state store."""
    from airflow.models.task_state_store import TaskStateStoreModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(TaskStateStoreModel.value).where(
            TaskStateStoreModel.dag_id == instance.dag_id,
            TaskStateStoreModel.run_id == instance.run_id,
            TaskStateStoreModel.key == key,
        )
        return json.loads(session.scalars(query).one())


def test_the_manifest_is_the_tasks_xcom(run_operator: RunOperator, tmp_path: Path, write_parquet: Any) -> None:
    source = write_parquet(tmp_path / "in.parquet", ["one", None, "three"])
    instance = run_operator(
        "MullamaGenerateOperator",
        input_path=str(source),
        output_path=str(tmp_path / "{{ dag.dag_id }}"),
        prompt_template="say {text}",
        model="echo",
    )
    assert instance.state == "success"
    manifest = instance.xcom_pull(task_ids="job")
    assert manifest["status_counts"] == {"success": 2, "skipped": 1}
    assert manifest["output_path"] == str(tmp_path / instance.dag_id / "in.parquet")
    assert pq.read_table(manifest["output_path"])["response"].to_pylist() == ["say one", None, "say three"]


def test_progress_lies_in_the_state_store(run_operator: RunOperator, tmp_path: Path, write_parquet: Any) -> None:
    pytest.importorskip("airflow.models.task_state_store", reason="Airflow 3.3 and newer have a task state store")
    source = write_parquet(tmp_path / "in.parquet", ["one", None, "three"])
    instance = run_operator(
        "MullamaGenerateOperator",
        input_path=str(source),
        output_path=str(tmp_path / "out.parquet"),
        prompt_column="text",
        model="echo",
    )
    progress = stored_value(instance, "progress")
    assert (progress["done"], progress["total"], progress["errors"]) == (3, 3, 0)
    assert stored_value(instance, "manifest") == instance.xcom_pull(task_ids="job")


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"prompt_column": "txt"}, "MissingColumnError", "has no column 'txt'"),
        ({"prompt_column": "text", "max_error_ratio": 0.0}, "ErrorBudgetExceededError", "in.parquet failed (1 engine_"),
        ({"prompt_column": "text", "max_tokens": 0}, "ConfigurationError", "max_tokens is 0"),
    ],
)
def test_why_a_task_failed_lies_in_the_state_store(
    run_operator: RunOperator, tmp_path: Path, write_parquet: Any, arguments: Any, error: str, sentence: str
) -> None:
    pytest.importorskip("airflow.models.task_state_store", reason="Airflow 3.3 and newer have a task state store")
    source = write_parquet(tmp_path / "in.parquet", ["one", "two"])
    instance = run_operator(
        "MullamaGenerateOperator",
        input_path=str(source),
        output_path=str(tmp_path / "out.parquet"),
        model="echo",
        engine_options={"faults": {"fail": [1]}},
        max_retries=0,
        **arguments,
    )
    assert instance.state == "failed"
    failure = stored_value(instance, "failure")
    assert failure["error"] == error
    assert sentence in failure["message"]


def test_a_list_of_inputs_gives_one_manifest_with_its_partitions(
    run_operator: RunOperator, tmp_path: Path, write_parquet: Any
) -> None:
    sources = [str(write_parquet(tmp_path / f"ds=2026-11-0{day}" / "a.parquet", ["x"] * day)) for day in (1, 2)]
    instance = run_operator(
        "MullamaEmbedOperator", input_path=sources, output_path=str(tmp_path / "out"), text_column="text", model="echo"
    )
    manifest = instance.xcom_pull(task_ids="job")
    assert manifest["rows"] == 3
    assert [one["rows"] for one in manifest["partitions"]] == [1, 2]
    assert (tmp_path / "out" / "ds=2026-11-02" / "a.parquet").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"sampling": {"temprature": 0.1}}, "sampling has no parameter 'temprature'"),
        ({"engine_options": {"n_context": 5}}, "engine_options has 'n_context'"),
        ({"mullama_conn_id": "nobody"}, "There is no connection 'nobody'"),
        ({"model": None}, "No model: give model="),
        ({"prompt_template": "say {text!r}"}, "format or conversion"),
        ({"prompt_template": "say {txt}"}, "has no column 'txt'; it has: id, text."),
        ({"model": "/no/such/model.gguf"}, "The model '/no/such/model.gguf' does not exist"),
    ],
)
def test_wrong_arguments_fail_at_once_and_are_not_retried(
    run_operator: RunOperator,
    tmp_path: Path,
    write_parquet: Any,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    started_workers: Any,
    arguments: dict[str, Any],
    sentence: str,
) -> None:
    source = write_parquet(tmp_path / "in.parquet", ["one"])
    defaults = {"prompt_template": "{text}", "model": "echo", "retries": 3}
    instance = run_operator(
        "MullamaGenerateOperator",
        input_path=str(source),
        output_path=str(tmp_path / "out.parquet"),
        **{**defaults, **arguments},
    )
    assert instance.state == "failed"  # and not up_for_retry
    assert sentence in capfd.readouterr().out + caplog.text
    assert len(started_workers) == 0


def test_too_many_failed_rows_fail_the_task_after_the_output_is_written(
    run_operator: RunOperator, tmp_path: Path, write_parquet: Any
) -> None:
    source = write_parquet(tmp_path / "in.parquet", [f"row {row}" for row in range(10)])
    arguments: dict[str, Any] = {
        "input_path": str(source),
        "output_path": str(tmp_path / "out.parquet"),
        "prompt_column": "text",
        "model": "echo",
        "max_retries": 0,
    }
    faults = {"faults": {"fail": [1, 2, 3]}}
    instance = run_operator("MullamaGenerateOperator", engine_options=faults, **arguments)
    assert instance.state == "failed"
    assert pq.read_table(tmp_path / "out.parquet")["status"].to_pylist().count("failed") == 3
    assert instance.xcom_pull(task_ids="job", key="manifest")["error_types"] == {"engine_error": 3}
    mended = run_operator("MullamaGenerateOperator", **arguments)
    assert mended.xcom_pull(task_ids="job")["repaired_rows"] == 3
    assert mended.xcom_pull(task_ids="job")["computed_rows"] == 3


def test_a_connection_gives_defaults_and_arguments_win(
    run_operator: RunOperator, tmp_path: Path, write_parquet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"model": "echo", "engine_options": {"dimensions": 5, "n_parallel": 2}}
    monkeypatch.setenv("AIRFLOW_CONN_GPU_BOX", json.dumps({"conn_type": "mullama", "extra": extra}))
    source = write_parquet(tmp_path / "in.parquet", ["one"])
    arguments: dict[str, Any] = {"input_path": str(source), "text_column": "text", "mullama_conn_id": "gpu_box"}
    instance = run_operator("MullamaEmbedOperator", output_path=str(tmp_path / "five.parquet"), **arguments)
    assert instance.state == "success"
    assert pq.read_schema(tmp_path / "five.parquet").field("embedding").type == stored_type(pa.list_(pa.float32(), 5))
    run_operator(
        "MullamaEmbedOperator", output_path=str(tmp_path / "7.parquet"), engine_options={"dimensions": 7}, **arguments
    )
    assert pq.read_schema(tmp_path / "7.parquet").field("embedding").type == stored_type(pa.list_(pa.float32(), 7))


def test_execution_timeout_keeps_what_is_finished(
    run_operator: RunOperator, tmp_path: Path, write_parquet: Any, no_worker_left: None, time_is_up: None
) -> None:
    source = write_parquet(tmp_path / "in.parquet", [f"row {row}" for row in range(400)])
    arguments: dict[str, Any] = {
        "input_path": str(source),
        "output_path": str(tmp_path / "out.parquet"),
        "prompt_column": "text",
        "model": "echo",
        "chunk_rows": 10,
    }
    slow = {"delay_s": 0.1, "n_parallel": 2}
    instance = run_operator(
        "MullamaGenerateOperator",
        engine_options=slow,
        execution_timeout=datetime.timedelta(hours=1),
        **arguments,
    )
    assert instance.state == "failed"
    assert not (tmp_path / "out.parquet").exists()
    after = run_operator("MullamaGenerateOperator", **arguments).xcom_pull(task_ids="job")
    assert after["resumed_rows"] > 0
    assert after["resumed_rows"] + after["computed_rows"] == 400


def test_the_ticket_tagger_is_right_on_held_out_tickets(run_operator: RunOperator, tmp_path: Path) -> None:
    from airflow_mullama.demo.tickets import HELD_OUT_SEED, PROMPT_TEMPLATE, generate_tickets

    tickets = list(generate_tickets(1000, seed=HELD_OUT_SEED, templates="known"))
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": [ticket.text for ticket in tickets]}), source)
    instance = run_operator(
        "MullamaGenerateOperator",
        input_path=str(source),
        output_path=str(tmp_path / "out.parquet"),
        prompt_template=PROMPT_TEMPLATE,
        model="demo:ticket-tagger",
        max_tokens=48,
    )
    assert instance.state == "success"
    answers = pq.read_table(tmp_path / "out.parquet")["response"].to_pylist()
    tags = [json.loads(answer) if answer is not None else {} for answer in answers]
    for field in ("category", "sentiment", "urgency"):
        right = sum(tag.get(field) == getattr(ticket, field) for tag, ticket in zip(tags, tickets, strict=True))
        assert right >= 950, f"{field}: {right} of 1000"


def test_minilm_gives_the_reference_vectors(run_operator: RunOperator, tmp_path: Path) -> None:
    from airflow_mullama.models.minilm import DemoModelUnavailableError
    from airflow_mullama.models.resolve import locate_model

    try:
        locate_model("demo:minilm")
    except DemoModelUnavailableError as error:
        pytest.skip(str(error))
    instance = run_operator(
        "MullamaEmbedOperator",
        input_path=str(REFERENCE),
        output_path=str(tmp_path / "out.parquet"),
        text_column="text",
        model="demo:minilm",
        truncate="end",  # as sentence-transformers does
        output_prefix="our_",
    )
    assert instance.state == "success"
    table = pq.read_table(tmp_path / "out.parquet")
    ours, reference = (np.array(table[name].to_pylist(), dtype=np.float64) for name in ("our_embedding", "embedding"))
    cosines = (ours * reference).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(reference, axis=1)
    assert len(cosines) == 50
    assert cosines.min() >= 0.999


@pytest.mark.parametrize(("template", "state"), [("{text}", "success"), ("new {text}", "failed")])
def test_what_becomes_of_a_task_whose_output_another_attempt_published_meanwhile(
    run_operator: RunOperator,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    write_parquet: Any,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    template: str,
    state: str,
) -> None:
    """Of the same work, it is done; what newer work left is not replaced by a retry."""
    source, output = write_parquet(tmp_path / "in.parquet", ["one"]), tmp_path / "out.parquet"
    dag_id = "".join(character if character.isalnum() else "_" for character in request.node.name) + "_1"

    def publish_another(step: str) -> None:
        if step == "publish":
            monkeypatch.undo()
            job = GenerateJob(model="echo", prompt_template=template)
            run_job(job, source, output, writer=Writer(dag_id, "job"), listeners=[])

    monkeypatch.setattr(fail_points, "observer", publish_another)
    arguments = {"input_path": str(source), "output_path": str(output), "prompt_template": "{text}", "model": "echo"}
    instance = run_operator("MullamaGenerateOperator", retries=3, **arguments)
    assert (instance.dag_id, instance.state, instance.try_number) == (dag_id, state, 1)
    if state == "success":
        assert instance.xcom_pull(task_ids="job")["skipped"] == "up_to_date"
    else:
        assert "The other one began later" in capfd.readouterr().out + caplog.text
    assert pq.read_table(output)["response"].to_pylist() == [template.format(text="one")]
