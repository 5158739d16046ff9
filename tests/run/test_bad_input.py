"""Input and output that cannot work: one sentence each, before a worker is started or anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.errors import (
    ConfigurationError,
    InputNotFoundError,
    InputUnreadableError,
    MissingColumnError,
    MullamaError,
    OutputExistsError,
)
from airflow_mullama.run.runner import run_job


@pytest.fixture
def lake(tmp_path: Path, write_parquet: Callable[..., Path]) -> Path:
    for day in (1, 2, 3):
        write_parquet(tmp_path / "lake" / f"ds=2026-01-0{day}" / "a.parquet", ["one", "two"])
    return tmp_path / "lake"


@pytest.fixture
def refused(
    echo_job: Callable[..., Any], started_workers: Any, tmp_path: Path
) -> Callable[[type[MullamaError], Any, Any], str]:
    """Run a job that must be refused; returns the sentence."""

    def run(kind: type[MullamaError], source: Any, target: Any) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(kind) as caught:
            run_job(echo_job(), source, target)
        assert len(started_workers) == 0
        assert sorted(tmp_path.rglob("*")) == before
        message = str(caught.value)
        assert "\n" not in message
        return message

    return run


def test_an_output_equal_to_the_input_or_inside_of_it_or_around_it(lake: Path, refused: Any, tmp_path: Path) -> None:
    assert "are both" in refused(ConfigurationError, lake, lake)
    assert "lies below input_path" in refused(ConfigurationError, lake, lake / "out")
    assert "lies below output_path" in refused(ConfigurationError, lake, tmp_path)


def test_a_template_that_reads_a_column_which_a_later_partition_lacks(lake: Path, refused: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "body": ["x"]}), lake / "ds=2026-01-03" / "a.parquet")
    message = refused(MissingColumnError, lake, tmp_path / "out")
    assert message == f"The input '{lake}/ds=2026-01-03' has no column 'text'; it has: id, body."


def test_a_hive_key_that_a_column_contradicts(lake: Path, refused: Any, tmp_path: Path) -> None:
    table = pa.table({"text": ["x"], "ds": ["2026-02-28"]})
    pq.write_table(table, lake / "ds=2026-01-02" / "a.parquet")
    message = refused(InputUnreadableError, lake, tmp_path / "out")
    assert "lies below ds=2026-01-02 and its column 'ds' holds 2026-02-28" in message


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ds=2026-01-02/b.parquet", "b.parquet' is not a readable Parquet file"),
        ("ds=2026-01-04/b.parquet", "b.parquet' is not a readable Parquet file"),
        ("ds=2026-01-04/b.avro", "holds 'b.avro' and no file that is read"),
    ],
)
def test_a_file_between_the_partitions_that_is_not_parquet(
    lake: Path, refused: Any, tmp_path: Path, name: str, sentence: str
) -> None:
    (lake / name).parent.mkdir(exist_ok=True)
    (lake / name).write_text("id,text\n1,long enough for the footer of a Parquet file\n")
    assert sentence in refused(InputUnreadableError, lake, tmp_path / "out")


def test_an_output_that_a_task_of_another_kind_wrote(
    lake: Path, tmp_path: Path, echo_job: Any, echo_embed_job: Any
) -> None:
    run_job(echo_job(), lake, tmp_path / "out")
    with pytest.raises(OutputExistsError, match=r"another kind \('generate', and this one is 'embed'\)"):
        run_job(echo_embed_job(), lake, tmp_path / "out")
    assert run_job(echo_embed_job(if_exists="overwrite"), lake, tmp_path / "out").task == "embed"


def test_every_column_that_another_writer_makes_can_be_asked_for_and_is_kept(tmp_path: Path, echo_job: Any) -> None:
    source = tmp_path / "in.parquet"
    columns = {
        "interval '3 days'": "i",
        "uuid()": "u",
        "5::hugeint": "h",
        "[1, 2]::int[2]": "a",
        "map {'a': 1}": "m",
        "'101'::bit": "b",
        "time '10:00'": "t",
        "union_value(k := 1)": "v",
        "{'x': {'y': [null]}}": "s",
        "null": "n",
    }
    selected = ", ".join(f"{value} as {name}" for value, name in columns.items())
    duckdb.sql(f"copy (select {selected}) to '{source}' (format parquet)")
    for column in columns.values():
        manifest = run_job(echo_job(prompt_column=column), source, tmp_path / f"{column}.parquet")
        assert manifest.status_counts == ({"skipped": 1} if column == "n" else {"success": 1})
        output = pq.ParquetFile(tmp_path / f"{column}.parquet").read()
        assert output.select(list(columns.values())).equals(pq.ParquetFile(source).read())


def test_a_missing_input_is_an_error_unless_it_may_be_left_out(
    lake: Path, tmp_path: Path, echo_job: Any, refused: Any, started_workers: Any
) -> None:
    missing = [lake / "ds=2026-01-08", lake / "ds=2026-01-09"]
    assert "ds=2026-01-09" in refused(InputNotFoundError, missing[1], tmp_path / "out")
    manifest = run_job(echo_job(), missing, tmp_path / "out", leave_out_missing=True)
    assert (manifest.rows, manifest.skipped, manifest.status_counts) == (0, "input_missing", {})
    assert manifest.input_path == f"{missing[0]}, {missing[1]}"
    assert len(started_workers) == 0
    assert not (tmp_path / "out").exists()
    some = run_job(echo_job(), [lake / "ds=2026-01-01", missing[0]], tmp_path / "out", leave_out_missing=True)
    assert (some.rows, some.skipped) == (2, None)
