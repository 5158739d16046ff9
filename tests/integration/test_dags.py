"""The example DAGs, run by Airflow over real engines, with what they wrote read back."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.demo.lake import LONG_TEXT_BYTES, LakeSummary, write_lake
from airflow_mullama.demo.minilm import GGUF_NAME, PACKAGE, TOKENIZER_NAME
from airflow_mullama.demo.run import EMBED, TAG, DemoDag, dags_directory
from airflow_mullama.models.resolve import locate_model
from airflow_mullama.paths import cache_directory
from airflow_mullama.storage.vector_columns import stored_type

ROWS = 280

IMPORT_DAG_FILE = """
import runpy, sys
runpy.run_path(sys.argv[1])
heavy = {"pyarrow", "numpy", "pandas", "xllamacpp", "airflow_mullama.runner", "airflow_mullama.jobs"}
print(sorted(heavy & set(sys.modules)))
"""


def tagger_is_there() -> bool:
    return locate_model("demo:ticket-tagger")[0].is_file()


def minilm_is_there() -> bool:
    models = cache_directory() / "models"
    if (models / GGUF_NAME).is_file() and (models / TOKENIZER_NAME).is_file():
        return True
    try:
        importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


needs_tagger = pytest.mark.skipif(not tagger_is_there(), reason="the ticket tagger's GGUF file is not there")
needs_minilm = pytest.mark.skipif(not minilm_is_there(), reason=f"the package {PACKAGE} is not installed")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> LakeSummary:
    return write_lake(tmp_path_factory.mktemp("lake") / "tickets", rows=ROWS)


@pytest.mark.parametrize("file", sorted(dags_directory().glob("*.py")), ids=lambda file: file.name)
def test_a_dag_file_imports_nothing_heavy(file: Path, airflow_home: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", IMPORT_DAG_FILE, str(file)], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.splitlines()[-1] == "[]"


def test_every_dag_of_the_demo_is_there() -> None:
    assert {file.stem for file in dags_directory().glob("*.py")} >= {TAG.dag_id, EMBED.dag_id}


def outputs(dag: DemoDag, lake: LakeSummary) -> dict[str, str]:
    parameter = {"tag": "tagged", "embed": "embedded"}[dag.task_id]
    return {"tickets": str(lake.directory), parameter: str(lake.directory.parent / dag.output)}


def partitions(dag: DemoDag, lake: LakeSummary) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Input and output of each partition."""
    for directory in sorted(lake.directory.glob("ds=*")):
        files = [pq.ParquetFile(path).read() for path in sorted(directory.glob("*.parquet"))]
        output = lake.directory.parent / dag.output / directory.name / "part-00000.parquet"
        yield pa.concat_tables(files), pq.ParquetFile(output).read()


def manifests(run: Any, task_id: str) -> list[dict[str, Any]]:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        found = session.scalars(
            XComModel.get_many(run_id=run.run_id, dag_ids=run.dag_id, task_ids=task_id, key="return_value")
        ).all()
        values = [(xcom.map_index, xcom.value) for xcom in found]
    return [json.loads(value) if isinstance(value, str) else value for _, value in sorted(values, key=lambda v: v[0])]


def check_run(run: Any, dag: DemoDag, lake: LakeSummary) -> list[tuple[pa.Table, pa.Table]]:
    """The row contract, of the outputs and of the manifests; returns input and output of each partition."""
    assert run.state == "success"
    tables = list(partitions(dag, lake))
    reported = manifests(run, dag.task_id)
    assert len(tables) == len(reported) == lake.partitions
    for (source, output), manifest in zip(tables, reported, strict=True):
        assert output.select(source.column_names).equals(source)
        statuses = output["status"].to_pylist()
        counted = {status: statuses.count(status) for status in set(statuses)}
        assert counted == manifest["status_counts"]
        assert sum(counted.values()) == manifest["rows"] == source.num_rows
        for row in output.to_pylist():
            if row["text"] is None:
                assert (row["status"], row["error_type"]) == ("skipped", "null_input")
    (summary,) = manifests(run, "summary")
    assert summary["rows"] == lake.rows
    assert summary["partition_count"] == lake.partitions
    assert summary["status_counts"]["skipped"] == lake.nulls
    return tables


@pytest.mark.integration
@needs_tagger
def test_tag_tickets(shipped_dag: Callable[..., Any], run_dag: Callable[..., Any], lake: LakeSummary) -> None:
    run = run_dag(shipped_dag(TAG.dag_id), outputs(TAG, lake))
    rows = [row for _, output in check_run(run, TAG, lake) for row in output.to_pylist()]
    for row in rows:
        if row["text"] is not None and len(row["text"].encode()) == LONG_TEXT_BYTES:
            assert (row["status"], row["error_type"]) == ("failed", "prompt_too_long")
            assert row["response"] is None
        elif row["text"] is not None:
            assert (row["status"], row["error_type"], row["error"]) == ("success", None, None)
            assert row["finish_reason"] in ("stop", "length")
    assert [row["status"] for row in rows].count("failed") == 1
    answers = [json.loads(row["response"]) for row in rows if row["finish_reason"] == "stop"]
    assert len(answers) > 0.95 * ROWS
    assert all(set(answer) == {"category", "sentiment", "urgency"} for answer in answers)

    again = run_dag(shipped_dag(TAG.dag_id), outputs(TAG, lake))
    assert {manifest["skipped"] for manifest in manifests(again, TAG.task_id)} == {"up_to_date"}
    check_run(again, TAG, lake)


@pytest.mark.integration
@needs_minilm
def test_embed_tickets(shipped_dag: Callable[..., Any], run_dag: Callable[..., Any], lake: LakeSummary) -> None:
    run = run_dag(shipped_dag(EMBED.dag_id), outputs(EMBED, lake))
    for _, output in check_run(run, EMBED, lake):
        assert output.schema.field("embedding").type == stored_type(pa.list_(pa.float32(), 384))
        for row in output.to_pylist():
            if row["status"] == "success":
                assert sum(number * number for number in row["embedding"]) == pytest.approx(1.0, abs=1e-4)
            else:
                assert row["embedding"] is None


@pytest.mark.integration
def test_a_failed_partition_fails_the_run_and_is_counted(
    shipped_dag: Callable[..., Any], run_dag: Callable[..., Any], tmp_path: Path
) -> None:
    lake = write_lake(tmp_path / "tickets", rows=140)
    broken = next(lake.directory.glob("ds=*/*.parquet"))
    broken.write_bytes(b"PAR1 this is no Parquet file PAR1")
    dag = shipped_dag(TAG.dag_id)
    for task in dag.tasks:
        arguments = getattr(task, "partial_kwargs", None)
        if arguments is not None:
            arguments.update(model="echo", sampling=None, output_schema=None, retries=0)
    run = run_dag(dag, outputs(TAG, lake))
    assert run.state == "failed"
    states = {(one.task_id, one.map_index): one.state for one in run.get_task_instances()}
    assert list(states.values()).count("failed") == 1
    assert states["summary", -1] == "success"
    (summary,) = manifests(run, "summary")
    assert summary["partition_count"] == lake.partitions - 1
