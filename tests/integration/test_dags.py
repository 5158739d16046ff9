"""The example DAGs, run by Airflow over real engines, with what they wrote read back."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.cache import cache_directory
from airflow_mullama.demo.lake import LONG_TEXT_BYTES, LakeSummary, write_lake
from airflow_mullama.demo.run import EMBED, TAG, DemoDag, dags_directory
from airflow_mullama.jobs.embed import EmbedJob
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.models.minilm import GGUF_NAME, PACKAGE, TOKENIZER_NAME
from airflow_mullama.models.resolve import locate_model
from airflow_mullama.run.runner import run_job
from airflow_mullama.storage.parquet.vector_columns import stored_type

ROWS = 140

# Each file is imported by a process of its own, and what all of them import first by the one they are forked from.
IMPORT_DAG_FILES = """
import os, runpy, sys
from airflow.sdk import BaseOperator, Param, dag, task
heavy = {"pyarrow", "numpy", "pandas", "xllamacpp", "airflow_mullama.run.runner", "airflow_mullama.jobs.job"}
for file in sys.argv[1:]:
    if os.fork() == 0:
        runpy.run_path(file)
        print(file, *sorted(heavy & set(sys.modules)), flush=True)
        os._exit(0)  # without Airflow's own end, which takes longer than all the rest
    if os.wait()[1]:
        sys.exit(file + " cannot be imported")
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


def test_a_dag_file_imports_nothing_heavy(airflow_home: Path) -> None:
    files = sorted(map(str, dags_directory().glob("*.py")))
    completed = subprocess.run(
        [sys.executable, "-c", IMPORT_DAG_FILES, *files], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.splitlines() == files  # and no module after any of them


def test_every_dag_of_the_demo_is_there() -> None:
    assert {file.stem for file in dags_directory().glob("*.py")} >= {TAG.dag_id, EMBED.dag_id}


@pytest.mark.integration
@pytest.mark.parametrize("dag_id", sorted(file.stem for file in dags_directory().glob("*.py")))
def test_no_dag_begins_to_run_by_itself(dag_id: str, shipped_dag: Callable[[str], Any]) -> None:
    # The demo's Airflow unpauses new DAGs, and reads the whole folder.
    dag = shipped_dag(dag_id)
    assert dag.timetable.can_be_scheduled is False or dag.is_paused_upon_creation
    assert dag.doc_md


def outputs(dag: DemoDag, lake: LakeSummary) -> dict[str, str]:
    parameter = {"tag": "tagged", "embed": "embedded"}[dag.task_id]
    return {"tickets": str(lake.directory), parameter: str(lake.directory.parent / dag.output)}


def partitions(dag: DemoDag, lake: LakeSummary) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Input and output of each partition."""
    for directory in sorted(lake.directory.glob("ds=*")):
        files = [pq.ParquetFile(path).read() for path in sorted(directory.glob("*.parquet"))]
        output = lake.directory.parent / dag.output / directory.name / "part-00000.parquet"
        yield pa.concat_tables(files), pq.ParquetFile(output).read()


def manifests(run: Any, task_id: str, key: str = "return_value") -> list[dict[str, Any]]:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        found = session.scalars(
            XComModel.get_many(run_id=run.run_id, dag_ids=run.dag_id, task_ids=task_id, key=key)
        ).all()
        values = [(xcom.map_index, xcom.value) for xcom in found]
    return [json.loads(value) if isinstance(value, str) else value for _, value in sorted(values, key=lambda v: v[0])]


def with_wide_indexes(schema: pa.Schema) -> pa.Schema:
    return pa.schema(
        [
            field.with_type(pa.dictionary(pa.int32(), field.type.value_type, field.type.ordered))
            if pa.types.is_dictionary(field.type)
            else field
            for field in schema
        ]
    )


def check_run(run: Any, dag: DemoDag, lake: LakeSummary) -> list[tuple[pa.Table, pa.Table]]:
    """The row contract, of the outputs and of the manifests; returns input and output of each partition."""
    assert run.state == "success"
    tables = list(partitions(dag, lake))
    reported = manifests(run, dag.task_id)
    assert len(tables) == len(reported) == lake.partitions
    for (source, output), manifest in zip(tables, reported, strict=True):
        # The indexes of a dictionary may have become wider; nothing else of a column may differ.
        assert output.select(source.column_names).schema.equals(with_wide_indexes(source.schema))
        assert output.select(source.column_names).to_pylist() == source.to_pylist()
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
    assert len(answers) > 0.95 * (lake.rows - lake.nulls)
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
    assert list(states.values()).count("failed") == 2
    assert states["summary", -1] == "failed"
    (summary,) = manifests(run, "summary", "summary")
    assert summary["partition_count"] == lake.partitions - 1
    assert summary["missing_count"] == 1


@pytest.mark.integration
@needs_tagger
def test_many_partitions(shipped_dag: Callable[..., Any], run_dag: Callable[..., Any], lake: LakeSummary) -> None:
    tagged = lake.directory.parent / "tagged_all"
    conf = {"tickets": str(lake.directory), "tagged": str(tagged), "first_day": "2026-03-03", "max_tasks": 2}
    run = run_dag(shipped_dag("many_partitions"), conf)
    assert run.state == "success"
    reported = manifests(run, "tag")
    assert [len(manifest["partitions"]) for manifest in reported] == [3, 3]
    assert sorted(path.name for path in tagged.glob("ds=*")) == [f"ds=2026-03-0{day}" for day in range(3, 9)]
    # Days differ in size, tasks hardly.
    rows = [manifest["rows"] for manifest in reported]
    assert max(rows) - min(rows) <= 0.1 * sum(rows)
    (summary,) = manifests(run, "summary")
    assert (summary["partition_count"], summary["rows"], summary["missing_count"]) == (6, sum(rows), 0)


@pytest.mark.integration
@needs_tagger
def test_on_kubernetes_runs_under_any_executor(
    shipped_dag: Callable[..., Any], run_dag: Callable[..., Any], lake: LakeSummary
) -> None:
    tagged = lake.directory.parent / "tagged_in_pods"
    conf = {"tickets": str(lake.directory), "tagged": str(tagged), "max_tasks": 2}
    run = run_dag(shipped_dag("on_kubernetes"), conf)
    assert run.state == "success"
    (summary,) = manifests(run, "summary")
    assert (summary["partition_count"], summary["rows"]) == (lake.partitions, lake.rows)
    assert summary["missing_count"] == 0
    assert sorted(path.name for path in tagged.glob("ds=*")) == sorted(
        path.name for path in lake.directory.glob("ds=*")
    )


@pytest.mark.integration
def test_repair_failed_rows(shipped_dag: Callable[..., Any], run_dag: Callable[..., Any], tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "tickets", rows=140)
    tagged = tmp_path / "tickets_tagged_daily"
    dag = shipped_dag("repair_failed_rows")
    arguments = dag.get_task("repair").partial_kwargs
    arguments.update(model="echo", engine_options={"request_log": str(tmp_path / "requests")}, retries=0)
    job = GenerateJob(
        **{name: arguments[name] for name in ("prompt_template", "model", "max_tokens")},
        engine_options={"faults": {"fail": [1, 2]}},
        max_retries=0,
        max_error_ratio=1.0,
    )
    days = sorted(path.name for path in lake.directory.glob("ds=*"))
    broken = run_job(job, [lake.directory / day for day in days[:2]], tagged)
    assert broken.error_types["engine_error"] == 4
    run_job(replace(job, engine_options={}), [lake.directory / day for day in days[2:]], tagged)

    run = run_dag(dag, {"tickets": str(lake.directory), "tagged": str(tagged)})
    assert run.state == "success"
    (summary,) = manifests(run, "summary")
    assert (summary["partition_count"], summary["repaired_rows"], summary["computed_rows"]) == (7, 4, 4)
    assert summary["status_counts"].keys() == {"success", "skipped"}
    assert len((tmp_path / "requests").read_text().split()) == 4


@pytest.mark.integration
def test_the_repair_asks_what_the_daily_run_asked(shipped_dag: Callable[..., Any]) -> None:
    daily, repair = shipped_dag("daily_backfill").get_task("tag"), shipped_dag("repair_failed_rows").get_task("repair")
    defaults = {"output_prefix": ""}
    for name in (
        *("prompt_template", "prompt_column", "system_prompt", "chat", "max_tokens", "sampling", "output_schema"),
        *("model", "engine", "engine_options", "output_prefix"),
    ):
        assert repair.partial_kwargs.get(name, defaults.get(name)) == getattr(daily, name), name


@pytest.mark.integration
@needs_minilm
def test_search_vectors(shipped_dag: Callable[..., Any], run_dag: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("duckdb", reason="DuckDB is not installed")
    tickets = {
        "ds=2026-03-02": ["My parcel has not arrived.", "I was charged twice.", None],
        "ds=2026-03-03": ["Thanks!"],
    }
    for number, (day, texts) in enumerate(tickets.items()):
        (tmp_path / "tickets" / day).mkdir(parents=True)
        ids = pa.array(range(10 * number, 10 * number + len(texts)), pa.int64())
        pq.write_table(pa.table({"ticket_id": ids, "text": texts}), tmp_path / "tickets" / day / "a.parquet")
    run_job(
        EmbedJob(model="demo:minilm", text_column="text"), tmp_path / "tickets", tmp_path / "embedded", listeners=[]
    )
    conf = {
        "embedded": str(tmp_path / "embedded"),
        "questions": str(tmp_path / "questions"),
        "question": "Why did you take my money two times?",
        "most": 2,
    }
    run = run_dag(shipped_dag("search_vectors"), conf)
    assert run.state == "success"
    (nearest,) = manifests(run, "search")
    assert nearest[0]["ticket_id"] == 1
    assert nearest[0].keys() == {"ticket_id", "ds", "text", "cosine"}
    assert (nearest[0]["ds"], len(nearest)) == ("2026-03-02", 2)
    assert 1.0 >= nearest[0]["cosine"] > nearest[1]["cosine"]
