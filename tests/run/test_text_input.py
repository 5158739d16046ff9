"""JSON Lines and CSV in, Parquet out: every row once, and the same promises as for Parquet."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from airflow_mullama.errors import InputChangedError, InputUnreadableError, JobStoppedError
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.progress import Snapshot
from airflow_mullama.run.runner import run_job
from airflow_mullama.storage.mapped_tasks import list_partitions

LINES = '{"id": 1, "text": "one"}\n{"id": 2, "te\n{"id": 3, "text": null}\n{"id": 4, "text": "four"}\n'
TABLE = 'id,text\n1,one\n2\n3,\n4,"four"\n'


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", LINES), ("a.csv", TABLE)])
def test_a_damaged_row_is_that_rows_error(
    tmp_path: Path, echo_job: Callable[..., GenerateJob], name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    manifest = run_job(echo_job(max_error_ratio=1.0), tmp_path / name, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "a.parquet")
    assert table.select(["id", "text", "status", "error_type"]).to_pylist() == [
        {"id": 1, "text": "one", "status": "success", "error_type": None},
        {"id": None, "text": None, "status": "failed", "error_type": "unreadable_row"},
        {"id": 3, "text": None, "status": "skipped", "error_type": "null_input"},
        {"id": 4, "text": "four", "status": "success", "error_type": None},
    ]
    assert table.column("error")[1].as_py().startswith(("line 2 is not JSON", "row 2 has 1 field"))
    assert (manifest.rows, manifest.bytes_in) == (4, len(content))


def test_a_damaged_row_fails_where_the_prompt_has_no_column_too(
    tmp_path: Path, echo_job: Callable[..., GenerateJob]
) -> None:
    (tmp_path / "a.jsonl").write_text(LINES)
    run_job(echo_job(prompt_template="Say something.", max_error_ratio=1.0), tmp_path / "a.jsonl", tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "a.parquet")
    assert table.column("status").to_pylist() == ["success", "failed", "success", "success"]


def test_an_unchanged_file_costs_nothing_and_a_changed_one_only_its_new_rows(
    tmp_path: Path, echo_job: Callable[..., GenerateJob], request_log: Any
) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(LINES)
    run_job(echo_job(max_error_ratio=1.0), source, tmp_path / "out")
    source.touch()
    assert run_job(echo_job(max_error_ratio=1.0), source, tmp_path / "out").skipped == "up_to_date"
    source.write_text(LINES.replace('"te\n', '"text": "two"}\n'))
    request_log.clear()
    again = run_job(echo_job(max_error_ratio=1.0), source, tmp_path / "out")
    assert (again.reused_rows, request_log.rows()) == (2, [1])
    table = pq.read_table(tmp_path / "out" / "a.parquet")
    assert table.column("text").to_pylist() == ["one", "two", None, "four"]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz"])
def test_an_attempt_goes_on_where_the_last_one_ended(
    tmp_path: Path, echo_job: Callable[..., GenerateJob], request_log: Any, recorder: Any, name: str
) -> None:
    source = tmp_path / name
    if name == "a.csv":
        source.write_text("text\n" + "".join(f"row {number}\n" for number in range(100)))
    else:
        lines = "".join(f'{{"text": "row {number}"}}\n' for number in range(100))
        source.write_bytes(gzip.compress(lines.encode()))
    stop = threading.Event()

    def strike(snapshot: Snapshot) -> None:
        if snapshot.done >= 30:
            stop.set()

    with pytest.raises(JobStoppedError):
        run_job(
            echo_job(chunk_rows=10, delay_s=0.01), source, tmp_path / "out", listeners=[recorder(strike)], stop=stop
        )
    done = len(request_log.rows())
    request_log.clear()
    run_job(echo_job(chunk_rows=10, delay_s=0.01), source, tmp_path / "out")
    assert 0 < len(request_log.rows()) < 100
    assert len(request_log.rows()) + done >= 100
    table = pq.read_table(tmp_path / "out" / "a.parquet")
    assert table.column("text").to_pylist() == [f"row {number}" for number in range(100)]
    assert set(table.column("status").to_pylist()) == {"success"}


def test_a_file_that_changes_meanwhile_is_not_published(
    tmp_path: Path, echo_job: Callable[..., GenerateJob], recorder: Any
) -> None:
    source = tmp_path / "a.csv"
    source.write_text("text\none\ntwo\n")

    def change(snapshot: Snapshot) -> None:
        if snapshot.done:
            (tmp_path / "new").write_text("text\none\nother\n")
            (tmp_path / "new").replace(source)

    with pytest.raises(InputChangedError):
        run_job(echo_job(max_error_ratio=1.0), source, tmp_path / "out", listeners=[recorder(change)])
    assert not (tmp_path / "out" / "a.parquet").exists()


def test_a_hive_key_that_a_column_of_text_contradicts(tmp_path: Path, echo_job: Callable[..., GenerateJob]) -> None:
    folder = tmp_path / "lake" / "ds=2026-01-31"
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text("text,ds\none,2026-01-31\n")
    run_job(echo_job(max_error_ratio=1.0), tmp_path / "lake", tmp_path / "out")
    (folder / "a.csv").write_text("text,ds\none,2026-01-31\ntwo,2026-02-01\n")
    with pytest.raises(InputUnreadableError, match=r"lies below ds=2026-01-31 and its column 'ds' holds"):
        run_job(echo_job(max_error_ratio=1.0), tmp_path / "lake", tmp_path / "out")


def test_days_of_lines_are_partitions(tmp_path: Path, echo_job: Callable[..., GenerateJob]) -> None:
    for day, rows in (("ds=2026-01-30", 1), ("ds=2026-01-31", 3)):
        (tmp_path / "lake" / day).mkdir(parents=True)
        for part in ("a.jsonl", "b.ndjson"):
            (tmp_path / "lake" / day / part).write_text('{"text": "x"}\n' * rows)
    listed = list_partitions(tmp_path / "lake", tmp_path / "out", balance="rows")
    assert [Path(str(one["output_path"])).parent.name for one in listed] == ["ds=2026-01-30", "ds=2026-01-31"]
    assert run_job(echo_job(max_error_ratio=1.0), tmp_path / "lake", tmp_path / "out").rows == 8
    assert pq.read_metadata(str(listed[1]["output_path"])).num_rows == 6
