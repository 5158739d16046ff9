"""Nobody's work is replaced by accident: outputs of other inputs and writers, and files that only look like ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import run_job, run_partition
from airflow_mullama.commands.main import main
from airflow_mullama.errors import OutputExistsError
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.manifest import FOOTER_KEY
from airflow_mullama.writer import Writer

pytestmark = pytest.mark.usefixtures("no_worker_left")

Job = Callable[..., GenerateJob]
FIRST, SECOND = Writer("nightly", "first"), Writer("nightly", "second")


@pytest.fixture
def source(tmp_path: Path, write_parquet: Callable[..., Path]) -> Path:
    return write_parquet(tmp_path / "in" / "a.parquet", ["one", "two"])


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.parquet"


def responses(path: Path) -> list[str]:
    return list(pq.ParquetFile(path).read(["response"])["response"].to_pylist())


def test_two_days_of_the_same_name_do_not_meet_unnoticed(tmp_path: Path, write_parquet: Any, echo_job: Job) -> None:
    october, november = (
        write_parquet(tmp_path / "2026" / month / "01" / "a.parquet", [month]).parent for month in ("10", "11")
    )
    run_partition(echo_job(), october, tmp_path / "out")
    with pytest.raises(OutputExistsError) as refused:
        run_partition(echo_job(), november, tmp_path / "out")
    assert str(october) in str(refused.value)
    assert str(november) in str(refused.value)
    assert responses(tmp_path / "out" / "01.parquet") == ["10"]
    run_partition(echo_job(if_exists="overwrite"), november, tmp_path / "out")
    assert responses(tmp_path / "out" / "01.parquet") == ["11"]


def test_an_input_is_the_same_whichever_way_its_path_is_written(
    source: Path, output: Path, echo_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent.parent)
    run_partition(echo_job(), "in/a.parquet", output)
    monkeypatch.chdir(source.parent)
    pq.write_table(pa.table({"text": ["one", "new"]}), source)
    assert run_partition(echo_job(), f"file://{source}", output).reused_rows == 1


def test_a_lake_that_was_moved_as_it_is_costs_nothing(
    source: Path, output: Path, tmp_path: Path, echo_job: Job, started_workers: Any
) -> None:
    run_partition(echo_job(), source, output)
    source.parent.rename(tmp_path / "moved")
    assert run_partition(echo_job(), tmp_path / "moved" / "a.parquet", output).skipped == "up_to_date"
    assert len(started_workers) == 1


def test_another_writer_of_the_same_work_is_welcome(source: Path, output: Path, echo_job: Job) -> None:
    run_job(echo_job(), source, output, writer=FIRST)
    pq.write_table(pa.table({"text": ["one", "new"]}), source)
    repaired = run_job(echo_job(), source, output, writer=SECOND)
    assert (repaired.reused_rows, repaired.computed_rows) == (1, 1)
    assert json.loads(pq.read_metadata(output).metadata[FOOTER_KEY])["writer"] == SECOND.to_json()


def test_another_writer_of_other_work_is_refused_by_name(source: Path, output: Path, echo_job: Job) -> None:
    run_job(echo_job(prompt_template="A {text}"), source, output, writer=FIRST)
    with pytest.raises(OutputExistsError) as refused:
        run_job(echo_job(prompt_template="B {text}"), source, output, writer=SECOND)
    assert str(FIRST) in str(refused.value)
    assert str(SECOND) in str(refused.value)
    assert responses(output) == ["A one", "A two"]
    run_job(echo_job(prompt_template="B {text}", if_exists="overwrite"), source, output, writer=SECOND)
    assert responses(output) == ["B one", "B two"]


def test_a_writer_may_change_its_mind(source: Path, output: Path, echo_job: Job) -> None:
    run_job(echo_job(prompt_template="A {text}"), source, output, writer=Writer("nightly", "first", 3))
    run_job(echo_job(prompt_template="B {text}"), source, output, writer=Writer("nightly", "first", 5))
    assert responses(output) == ["B one", "B two"]


def test_the_command_names_itself_without_its_arguments(source: Path, output: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["generate", str(source), str(output), "--model", "echo", "--prompt-column", "text"])
    assert ended.value.code == 0
    stored = json.loads(pq.read_metadata(output).metadata[FOOTER_KEY])
    assert stored["writer"] == {"command": "airflow-mullama generate"}
    assert stored["input_location"] == f"file://{source}"


def test_what_another_writer_published_meanwhile_stays(
    source: Path, output: Path, echo_job: Job, recorder: Any
) -> None:
    other = output.with_name("other.parquet")
    run_job(echo_job(prompt_template="A {text}"), source, other, writer=FIRST)

    def publish(snapshot: Any) -> None:
        if other.exists():
            other.rename(output)

    with pytest.raises(OutputExistsError, match="was written by task 'first'"):
        run_job(echo_job(prompt_template="B {text}"), source, output, writer=SECOND, listeners=[recorder(publish)])
    assert responses(output) == ["A one", "A two"]


def with_footer(source: Path, target: Path, table: pa.Table, **changes: Any) -> None:
    """A file with the notes of another one, changed."""
    footer = json.loads(pq.read_metadata(source).metadata[FOOTER_KEY])
    with pq.ParquetWriter(target, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({FOOTER_KEY: json.dumps({**footer, **changes}).encode()})


@pytest.mark.parametrize("changes", [{"error_types": {"timeout": 1}}, {"fingerprint": "another"}])
@pytest.mark.parametrize("other_type", [True, False])
def test_a_file_with_our_footer_and_without_our_columns_is_not_ours(
    source: Path, output: Path, tmp_path: Path, echo_job: Job, changes: dict[str, Any], other_type: bool
) -> None:
    run_partition(echo_job(), source, output)
    table = pq.ParquetFile(output).read()
    place = table.schema.get_field_index("response")
    table = table.set_column(place, "response", pa.array([1, 2])) if other_type else table.remove_column(place)
    with_footer(output, tmp_path / "crafted.parquet", table, **changes)
    with pytest.raises(OutputExistsError, match="was not written by this package"):
        run_partition(echo_job(), source, tmp_path / "crafted.parquet")


@pytest.mark.parametrize("changes", [{"error_types": {"timeout": 1}}, {"fingerprint": "another"}])
def test_an_error_type_that_nobody_knows_is_asked_again(
    source: Path, output: Path, tmp_path: Path, echo_job: Job, changes: dict[str, Any]
) -> None:
    run_partition(echo_job(), source, output)
    table = pq.ParquetFile(output).read()
    place = table.schema.get_field_index("error_type")
    table = table.set_column(place, "error_type", pa.array([None, "bogus"]))
    with_footer(output, tmp_path / "crafted.parquet", table, **changes)
    manifest = run_partition(echo_job(), source, tmp_path / "crafted.parquet")
    assert (manifest.computed_rows, manifest.status_counts) == (1, {"success": 2})
