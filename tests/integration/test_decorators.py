"""Decorated tasks inside real Airflow: the function says which rows, the task does the rest."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.integration

DOCS = Path(__file__).parents[2] / "docs" / "airflow.md"
START = datetime.datetime(2026, 11, 1, tzinfo=datetime.timezone.utc)

RunTask = Callable[..., Any]


@pytest.fixture
def run_task(run_dag: Callable[..., Any], request: pytest.FixtureRequest) -> RunTask:
    """Run one decorated function as a DAG of its own; returns the task instance of the finished run."""
    count = 0

    def run(function: Callable[..., Any], kind: str = "generate", *, call: Any = (), **arguments: Any) -> Any:
        nonlocal count
        from airflow.sdk import DAG

        from airflow_mullama.decorators import mullama_embed_task, mullama_generate_task

        count += 1
        name = "".join(character if character.isalnum() else "_" for character in request.node.name)
        decorator = {"generate": mullama_generate_task, "embed": mullama_embed_task}[kind]
        with DAG(f"{name}_{count}", schedule=None, start_date=START) as dag:
            decorator(model="echo", task_id="job", **arguments)(function)(*call)
        return run_dag(dag).get_task_instance("job")

    return run


def manifest(instance: Any) -> Any:
    assert instance.state == "success"
    return instance.xcom_pull(task_ids="job")


def responses(path: Path) -> list[Any]:
    return list(pq.ParquetFile(path).read()["response"].to_pylist())


def test_a_function_returns_a_path(run_task: RunTask, tmp_path: Path, write_parquet: Any) -> None:
    write_parquet(tmp_path / "in" / "rows.parquet", ["one", None])

    def rows(folder: str, dag_run: Any = None) -> str:
        assert dag_run is not None  # the context is there by name, as for every decorated task
        return folder + "/{{ 'rows' }}.parquet"  # what is returned is a template too

    done = run_task(rows, call=[str(tmp_path / "in")], output_path=str(tmp_path / "out"), prompt_column="text")
    assert manifest(done)["status_counts"] == {"success": 1, "skipped": 1}
    assert responses(tmp_path / "out" / "rows.parquet") == ["one", None]


def test_a_function_returns_an_object_storage_path(run_task: RunTask, tmp_path: Path, write_parquet: Any) -> None:
    source = write_parquet(tmp_path / "in.parquet", ["one"])

    def rows() -> Any:
        from airflow.sdk import ObjectStoragePath

        return ObjectStoragePath(f"file://{source}")

    done = run_task(rows, "embed", output_path=str(tmp_path / "out.parquet"), text_column="text")
    assert manifest(done)["rows"] == 1
    assert "embedding" in pq.ParquetFile(tmp_path / "out.parquet").schema_arrow.names


def test_a_function_returns_paths(run_task: RunTask, tmp_path: Path, write_parquet: Any) -> None:
    sources = [write_parquet(tmp_path / f"{name}.parquet", [name]) for name in "ab"]
    done = run_task(lambda: sources, output_path=str(tmp_path / "out"), prompt_column="text")
    assert manifest(done)["rows"] == 2
    assert responses(tmp_path / "out" / "b.parquet") == ["b"]


def table(*texts: str | None) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.string())})


def test_a_function_returns_a_table(run_task: RunTask, tmp_path: Path, started_workers: Any) -> None:
    arguments = {"output_path": str(tmp_path / "out" / "rows.parquet"), "prompt_column": "text"}
    done = run_task(lambda: table("one", None), **arguments)
    assert manifest(done)["status_counts"] == {"success": 1, "skipped": 1}
    assert responses(tmp_path / "out" / "rows.parquet") == ["one", None]
    assert len(started_workers) == 1

    # What is left is what somebody would read: a recursive read counts each row once.
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["rows.parquet"]

    # The same rows again: they are written again for a moment, and the output is up to date.
    assert manifest(run_task(lambda: table("one", None), **arguments))["skipped"] == "up_to_date"
    assert len(started_workers) == 1

    # Other rows: only what is new is computed.
    changed = manifest(run_task(lambda: table("one", "two"), **arguments))
    assert (changed["reused_rows"], changed["computed_rows"]) == (1, 1)
    assert responses(tmp_path / "out" / "rows.parquet") == ["one", "two"]
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["rows.parquet"]


def test_a_table_that_was_half_done_is_resumed(
    run_task: RunTask, tmp_path: Path, request_log: Any, time_is_up: None
) -> None:
    arguments: dict[str, Any] = {
        "output_path": str(tmp_path / "rows.parquet"),
        "prompt_column": "text",
        "chunk_rows": 5,
    }
    texts = [f"row {row}" for row in range(200)]
    slow = {"delay_s": 0.1, "n_parallel": 2}
    timeout = datetime.timedelta(hours=1)
    first = run_task(lambda: table(*texts), engine_options=slow, execution_timeout=timeout, **arguments)
    assert first.state == "failed"
    assert len(list((tmp_path / "_mullama_source" / "rows.parquet").iterdir())) == 1  # for the next try
    after = manifest(run_task(lambda: table(*texts), **arguments))
    assert after["resumed_rows"] > 0
    assert after["resumed_rows"] + after["computed_rows"] == 200


@pytest.mark.parametrize(
    ("returned", "output", "sentence"),
    [
        (None, "out", "@task.mullama_generate: the function returned NoneType 'None'; it must return a path or URL"),
        (7, "out", "the function returned int '7'"),
        ("  ", "out", "the function returned str '  '"),
        ([], "out", "the function returned list"),
        (["a.parquet", 7], "out", "the function returned list"),
        (table("one"), "out", "a table needs an output of its own: a path that ends in .parquet."),
    ],
)
def test_what_a_function_must_not_return(
    run_task: RunTask,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    started_workers: Any,
    returned: Any,
    output: str,
    sentence: str,
) -> None:
    done = run_task(lambda: returned, output_path=str(tmp_path / output), prompt_column="text", retries=2)
    assert done.state == "failed"  # and not up_for_retry
    assert sentence in capfd.readouterr().out + caplog.text
    assert len(started_workers) == 0


def test_an_input_path_is_not_an_argument(airflow_home: Path) -> None:
    from airflow.sdk import DAG

    from airflow_mullama.decorators import mullama_embed_task

    with (
        DAG("an_input_path_is_not_an_argument", schedule=None, start_date=START),
        pytest.raises(TypeError, match=r"@task.mullama_embed takes no input_path: the function returns it"),
    ):
        mullama_embed_task(input_path="in.parquet", output_path="out", text_column="text")(lambda: "x")()


def test_a_table_is_kept_once_in_an_object_store(airflow_home: Path, object_store: Any) -> None:
    from airflow_mullama.decorators.source import write_source

    output = object_store.resolve(object_store.url("out", "ds=2026-11-01", "rows.parquet"))
    first = write_source(table("one", None), output)
    written = first.info().mtime_ns
    assert write_source(table("one", None), output) == first
    assert first.info().mtime_ns == written
    second = write_source(table("one", "two"), output)
    assert object_store.objects(object_store.url("out")) == [second.path]
    assert object_store.read(second.url)["text"].to_pylist() == ["one", "two"]


def test_the_example_of_the_docs(run_dag: Callable[..., Any], tmp_path: Path) -> None:
    from airflow.sdk import DAG, task

    if not hasattr(task, "mullama_generate"):
        pytest.skip("Airflow finds the decorators of providers that are installed (make test)")
    (example,) = re.findall(r"^```python\n(@task.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    example = example.replace("/models/qwen3-8b-q4_k_m.gguf", "echo").replace("s3://lake", str(tmp_path))
    example = example.replace("/data/lake", str(tmp_path))
    for day, stars in (("2026-11-01", [1, 1]), ("2026-11-02", [1, 5])):
        folder = tmp_path / "reviews" / f"ds={day}"
        folder.mkdir(parents=True)
        rows = {"id": [1, 2], "text": [f"{day} one", f"{day} two"], "stars": stars}
        pq.write_table(pa.table(rows), folder / "a.parquet")
    with DAG("docs_example", schedule=None, start_date=START) as dag:
        names: dict[str, Any] = {"task": task}
        exec(example, names)
        names["summaries"]()
    assert run_dag(dag, logical_date=datetime.datetime(2026, 11, 2, tzinfo=datetime.timezone.utc)).state == "success"
    output = pq.ParquetFile(tmp_path / "summaries" / "ds=2026-11-02" / "reviews.parquet").read()
    assert output["response"].to_pylist() == ["Summarise this review in one sentence: 2026-11-02 one"]
