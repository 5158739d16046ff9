"""A day whose files were written by different writers: one job, one schema, and the same promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.run.runner import run_job

OLD = pa.table({"id": pa.array([1, 2], pa.int32()), "text": ["one", "two"]})
NEW = pa.table({"note": ["new"], "text": pa.array(["three"], pa.large_string()), "id": pa.array([2**40])})


@pytest.fixture
def day(tmp_path: Path) -> Path:
    folder = tmp_path / "in" / "ds=2026-01-01"
    folder.mkdir(parents=True)
    pq.write_table(OLD, folder / "0.parquet")
    pq.write_table(NEW, folder / "1.parquet")
    return folder


def published(tmp_path: Path) -> pa.Table:
    return pq.ParquetFile(tmp_path / "out" / "ds=2026-01-01" / "part-00000.parquet").read()


def test_all_rows_are_in_one_output_and_the_log_says_once_what_was_promoted(
    day: Path, tmp_path: Path, echo_job: Callable[..., GenerateJob], recorder: Any
) -> None:
    job, told = echo_job(prompt_template="{id}: {text}"), recorder()
    assert run_job(job, day, tmp_path / "out", listeners=[told]).rows == 3
    rows = published(tmp_path).select(["id", "text", "note", "response"]).to_pylist()
    assert [(row["id"], row["text"], row["note"]) for row in rows] == [
        (1, "one", None),
        (2, "two", None),
        (2**40, "three", "new"),
    ]
    assert rows[2]["response"].endswith(f"{2**40}: three")
    said = [message for message in told.announcements if "differ" in message]
    promotions = [
        "'id' is read as int64, and some have int32",
        "'text' is read as large_string, and some have string",
        "'note' is null where it is absent, in 1 of 2 files",
    ]
    assert said == [f"the files of {day} differ and are read as one schema: {'; '.join(promotions)}"]
    assert run_job(job, day, tmp_path / "out").skipped == "up_to_date"


def test_rows_of_a_day_keep_their_outcome_when_a_file_with_other_columns_comes(
    day: Path, tmp_path: Path, echo_job: Callable[..., GenerateJob], request_log: Any
) -> None:
    (day / "1.parquet").rename(tmp_path / "late")
    run_job(echo_job(), day, tmp_path / "out")
    (tmp_path / "late").rename(day / "1.parquet")
    request_log.clear()
    again = run_job(echo_job(), day, tmp_path / "out")
    assert (again.reused_rows, again.computed_rows, len(request_log.rows())) == (2, 1, 1)
    assert published(tmp_path).column("id").to_pylist() == [1, 2, 2**40]


def test_a_column_of_the_template_that_a_file_lacks_skips_its_rows(
    day: Path, tmp_path: Path, echo_job: Callable[..., GenerateJob]
) -> None:
    manifest = run_job(echo_job(prompt_template="{note}"), day, tmp_path / "out")
    assert manifest.status_counts == {"skipped": 2, "success": 1}


@pytest.mark.parametrize(
    ("settings", "kind", "sentence"),
    [
        ({"schema_drift": "refuse"}, pa.int64(), r"have different columns .*schema_drift='refuse'"),
        ({}, pa.string(), "contradict each other: column 'id' is int32 in one and string in the other"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_begun(
    day: Path,
    tmp_path: Path,
    echo_job: Callable[..., GenerateJob],
    started_workers: Any,
    settings: Any,
    kind: Any,
    sentence: str,
) -> None:
    pq.write_table(NEW.set_column(2, "id", NEW.column("id").cast(kind)), day / "1.parquet")
    with pytest.raises(InputUnreadableError, match=sentence):
        run_job(echo_job(**settings), day, tmp_path / "out")
    assert len(started_workers) == 0
    assert not (tmp_path / "out").exists()


def test_a_name_that_occurs_twice_matters_only_where_it_is_used(
    tmp_path: Path, echo_job: Callable[..., GenerateJob]
) -> None:
    table = pa.table([["a"], ["one"], [7]], names=["x", "text", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    run_job(echo_job(prompt_column="text"), tmp_path / "a.parquet", tmp_path / "out")
    assert pq.ParquetFile(tmp_path / "out" / "a.parquet").read().select([0, 1, 2]) == table
    with pytest.raises(InputUnreadableError, match="several columns named 'x', which the template names"):
        run_job(echo_job(prompt_column="x"), tmp_path / "a.parquet", tmp_path / "other")
