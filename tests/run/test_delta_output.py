"""Jobs whose output is a Delta table: a commit for each partition that changed, and nothing left of killed attempts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pytest

from airflow_mullama import fail_points, run_job
from airflow_mullama.errors import (
    ConfigurationError,
    OutputExistsError,
    TableFormatError,
    UnsupportedColumnError,
)

deltalake = pytest.importorskip("deltalake")

pytestmark = pytest.mark.usefixtures("no_worker_left")

Write = Callable[..., Path]
DAYS = ("2026-01-01", "2026-01-02")
RESULTS = ["response", "status", "error_type", "error", "attempts", "finish_reason", "prompt_tokens"]


@pytest.fixture
def lake(tmp_path: Path, write_parquet: Write, texts: Callable[..., list[str]]) -> Path:
    for number, day in enumerate(DAYS):
        write_parquet(tmp_path / "in" / f"ds={day}" / "a.parquet", texts(5, start=10 * number))
    return tmp_path / "in"


def table_at(folder: Path) -> Any:
    return deltalake.DeltaTable(str(folder))


def rows_of(folder: Path, predicate: str | None = None) -> list[dict[str, Any]]:
    rows = pa.table(table_at(folder).scan(predicate=predicate)).to_pylist()
    return sorted(rows, key=lambda row: (row["ds"], row["id"]))


def files_below(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.is_file() and "_delta_log" not in path.parts}


def test_the_table_is_made_with_the_inputs_partitions_and_each_is_one_commit(
    echo_job: Any, lake: Path, tmp_path: Path, texts: Callable[..., list[str]]
) -> None:
    output = tmp_path / "tagged"
    manifest = run_job(echo_job(prompt_template="{text}"), lake, f"delta://{output}")
    assert [one.output_path for one in manifest.partitions] == [f"delta://{output}/ds={day}" for day in DAYS]
    table = table_at(output)
    assert (table.version(), table.metadata().partition_columns) == (1, ["ds"])
    assert pa.schema(table.schema().to_arrow()).names[:4] == ["id", "text", "ds", "response"]
    commits = table.history()
    assert [one["airflow_mullama"]["partition"] for one in commits] == [f"ds={day}" for day in reversed(DAYS)]
    assert commits[0]["airflow_mullama"]["manifest"]["fingerprint"] == manifest.partitions[1].fingerprint
    read = rows_of(output)
    assert [row["response"] for row in read] == [*texts(5), *texts(5, start=10)]
    # What was staged is gone, and every file is the table's.
    assert files_below(output) == set(table.file_uris())
    assert polars.read_delta(str(output)).sort("ds", "id").to_dicts() == read
    paths = [path for path in table.file_uris() if DAYS[1] in path]
    assert duckdb.sql(f"SELECT response FROM read_parquet({paths!r})").fetchall() == [(text,) for text in texts(5, 10)]
    assert duckdb.sql(f"SELECT count(*) FROM read_parquet({table.file_uris()!r})").fetchall() == [(10,)]


def test_only_what_changed_is_committed_and_only_new_rows_are_computed(
    echo_job: Any, lake: Path, tmp_path: Path, request_log: Any, write_parquet: Write, texts: Any
) -> None:
    address, output = f"delta://{tmp_path / 'tagged'}", tmp_path / "tagged"
    job = echo_job(prompt_template="{text}")
    run_job(job, lake, address)
    again = run_job(job, lake, address)
    assert again.skipped == "up_to_date"
    assert table_at(output).version() == 1
    request_log.clear()
    write_parquet(lake / f"ds={DAYS[1]}" / "a.parquet", [*texts(2, start=50), *texts(4, start=10)])
    changed = run_job(job, lake, address)
    assert [one.reused_rows for one in changed.partitions] == [0, 4]
    assert len(request_log.rows()) == 2
    assert table_at(output).version() == 2
    expected = [*texts(5), *texts(2, start=50), *texts(4, start=10)]
    assert [row["response"] for row in rows_of(output)] == expected
    assert files_below(output) - set(table_at(output).file_uris()) == set(table_at_version(output, 1)) - set(
        table_at(output).file_uris()
    )


def table_at_version(folder: Path, version: int) -> list[str]:
    return list(deltalake.DeltaTable(str(folder), version=version).file_uris())


def test_failed_rows_are_repaired_in_place(echo_job: Any, lake: Path, tmp_path: Path, request_log: Any) -> None:
    address, output = f"delta://{tmp_path / 'tagged'}", tmp_path / "tagged"
    faulty = echo_job(prompt_template="{text}", faults={"fail": [1, 3]}, max_retries=0, max_error_ratio=0.5)
    first = run_job(faulty, lake / f"ds={DAYS[0]}", address)
    assert first.failed_rows == 2
    request_log.clear()
    mended = run_job(echo_job(prompt_template="{text}"), lake / f"ds={DAYS[0]}", address)
    assert (mended.repaired_rows, mended.failed_rows, sorted(request_log.rows())) == (2, 0, [1, 3])
    assert table_at(output).version() == 1
    # Somebody writes the files anew: rows may be anywhere, and no row is lost or computed again.
    extra = echo_job(prompt_template="{text}", faults={"fail": [1, 3]}, max_retries=0, max_error_ratio=0.5)
    run_job(extra, lake / f"ds={DAYS[1]}", address)
    table = table_at(output)
    table.optimize.z_order(["text"])
    request_log.clear()
    assert run_job(echo_job(prompt_template="{text}"), lake / f"ds={DAYS[0]}", address).skipped == "up_to_date"
    repaired = run_job(echo_job(prompt_template="{text}"), lake / f"ds={DAYS[1]}", address)
    assert (repaired.rows, repaired.failed_rows, len(request_log.rows())) == (5, 0, 2)


def test_a_table_that_is_there_gets_the_columns_and_keeps_its_other_partitions(
    echo_embed_job: Any, tmp_path: Path
) -> None:
    source, output = tmp_path / "tickets", tmp_path / "vectors"
    days = pa.array([20454, 20454, 20455, 20456], pa.date32())
    rows = pa.table({"id": [1, 2, 3, 4], "ds": days, "text": ["a", None, "c", "d"]})
    deltalake.write_deltalake(str(source), rows, partition_by="ds")
    kept = rows.slice(3).append_column("note", pa.array(["keep me"]))
    deltalake.write_deltalake(str(output), kept, partition_by="ds")
    job = echo_embed_job(options={"dimensions": 3})
    manifest = run_job(job, [f"delta://{source}/ds=2026-01-01", f"delta://{source}/ds=2026-01-02"], f"delta://{output}")
    assert manifest.status_counts == {"success": 2, "skipped": 1}
    read = {row["id"]: row for row in rows_of(output)}
    assert [read[number]["ds"].isoformat() for number in (1, 2, 3, 4)] == [
        "2026-01-01",
        "2026-01-01",
        "2026-01-02",
        "2026-01-03",
    ]
    assert (read[4]["note"], read[4]["embedding"], read[1]["note"], read[2]["embedding"]) == (
        "keep me",
        None,
        None,
        None,
    )
    assert len(read[1]["embedding"]) == 3
    assert table_at(output).version() == 2
    # Vectors come back from the table as they went: a changed input reuses them.
    deltalake.DeltaTable(str(source)).delete("id = 2")
    changed = run_job(job, f"delta://{source}/ds=2026-01-01", f"delta://{output}")
    assert (changed.reused_rows, changed.computed_rows) == (1, 0)
    assert [row["embedding"] for row in rows_of(output, "ds = '2026-01-01'")] == [read[1]["embedding"]]


class StruckError(Exception):
    """A killed attempt, as far as files are concerned."""


def test_what_a_killed_attempt_left_is_removed_by_the_next(
    echo_job: Any, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_log: Any
) -> None:
    day, output = lake / f"ds={DAYS[0]}", tmp_path / "tagged"

    def strike(step: str) -> None:
        if step == "placed":
            raise StruckError

    monkeypatch.setattr(fail_points, "observer", strike)
    with pytest.raises(StruckError):
        run_job(echo_job(prompt_template="{text}"), day, f"delta://{output}")
    monkeypatch.setattr(fail_points, "observer", None)
    assert not (output / "_delta_log").exists()
    (orphan,) = output.glob("ds=*/mullama-*.parquet")
    request_log.clear()
    manifest = run_job(echo_job(prompt_template="{text}"), day, f"delta://{output}")
    assert (manifest.resumed_rows, request_log.rows()) == (5, [])
    assert not orphan.exists()
    assert files_below(output) == set(table_at(output).file_uris())


def test_commits_of_others_do_not_hinder_and_none_is_lost(
    echo_job: Any, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "tagged"
    address, job = f"delta://{output}", echo_job(prompt_template="{text}")
    run_job(job, lake / f"ds={DAYS[0]}", address)
    commits = iter(range(3))

    def interfere(step: str) -> None:
        if step == "placed" and next(commits, None) is not None:
            other = pa.table({"id": [99], "ds": ["2026-09-09"], "added_by": ["somebody"]})
            deltalake.write_deltalake(str(output), other, mode="append", schema_mode="merge")

    monkeypatch.setattr(fail_points, "observer", interfere)
    manifest = run_job(job, lake / f"ds={DAYS[1]}", address)
    assert manifest.status_counts == {"success": 5}
    assert [row["ds"] for row in rows_of(output)] == [DAYS[0]] * 5 + [DAYS[1]] * 5 + ["2026-09-09"]
    assert rows_of(output)[-1]["added_by"] == "somebody"


def test_of_two_attempts_of_one_partition_one_commits(
    echo_job: Any, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_log: Any
) -> None:
    output = tmp_path / "tagged"
    address, day = f"delta://{output}", lake / f"ds={DAYS[0]}"
    runs: list[Any] = []

    def attempt_another(step: str) -> None:
        if step == "placed" and not runs:
            runs.append("begun")
            runs[0] = run_job(echo_job(prompt_template="{text}"), day, address, listeners=[])

    monkeypatch.setattr(fail_points, "observer", attempt_another)
    outer = run_job(echo_job(prompt_template="{text}"), day, address)
    assert (runs[0].status_counts, outer.status_counts) == ({"success": 5}, {"success": 5})
    assert outer.skipped == "up_to_date"
    assert table_at(output).version() == 0
    assert files_below(output) == set(table_at(output).file_uris())


@pytest.mark.parametrize("there_before", [False, True])
def test_of_two_commits_at_the_same_moment_one_is_refused(
    echo_job: Any, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_before: bool
) -> None:
    from airflow_mullama.storage.delta.output import DeltaWriter

    output, day = tmp_path / "tagged", lake / f"ds={DAYS[1]}"
    address = f"delta://{output}"
    if there_before:
        run_job(echo_job(prompt_template="{text}"), lake / f"ds={DAYS[0]}", address)
    commit, runs = DeltaWriter._commit, []  # type: ignore[var-annotated]

    def commit_after_another(*arguments: Any) -> None:
        if not runs:
            runs.append("begun")
            runs[0] = run_job(echo_job(prompt_template="{text}"), day, address, listeners=[])
        commit(*arguments)

    monkeypatch.setattr(DeltaWriter, "_commit", commit_after_another)
    outer = run_job(echo_job(prompt_template="{text}"), day, address)
    assert (outer.skipped, runs[0].status_counts) == ("up_to_date", {"success": 5})
    assert table_at(output).version() == int(there_before)
    assert files_below(output) == set(table_at(output).file_uris())


def test_rows_that_somebody_changed_are_not_replaced(echo_job: Any, lake: Path, tmp_path: Path) -> None:
    address, output, day = f"delta://{tmp_path / 'tagged'}", tmp_path / "tagged", lake / f"ds={DAYS[0]}"
    run_job(echo_job(prompt_template="{text}"), day, address)
    table_at(output).delete("id = 2")
    with pytest.raises(OutputExistsError, match="was not written by this package"):
        run_job(echo_job(prompt_template="{text}"), day, address)
    manifest = run_job(echo_job(prompt_template="{text}", if_exists="overwrite"), day, address)
    assert manifest.rows == len(rows_of(output)) == 5
    with pytest.raises(OutputExistsError, match="exists and if_exists='error'"):
        run_job(echo_job(prompt_template="{text}", if_exists="error"), day, address)


def test_what_does_not_fit_is_refused_before_a_row_is_spent(
    echo_job: Any, lake: Path, tmp_path: Path, request_log: Any, write_parquet: Write
) -> None:
    job, day = echo_job(prompt_template="{text}"), lake / f"ds={DAYS[0]}"
    flat = tmp_path / "flat"
    deltalake.write_deltalake(str(flat), pa.table({"id": [1]}))
    with pytest.raises(ConfigurationError, match="is partitioned by nothing, and the input by ds"):
        run_job(job, day, f"delta://{flat}")
    other = tmp_path / "other"
    deltalake.write_deltalake(str(other), pa.table({"id": ["x"], "ds": ["y"]}), partition_by="ds")
    with pytest.raises(OutputExistsError, match="has the column 'id' as string, and it is to be int64"):
        run_job(job, day, f"delta://{other}")
    numbered = tmp_path / "numbered"
    deltalake.write_deltalake(str(numbered), pa.table({"id": [1], "ds": [7]}), partition_by="ds")
    with pytest.raises(ConfigurationError, match="column 'ds' is int64, and '2026-01-01' is none"):
        run_job(job, day, f"delta://{numbered}")
    guarded = tmp_path / "guarded"
    deltalake.write_deltalake(str(guarded), pa.table({"id": [1], "ds": ["y"]}), partition_by="ds")
    table_at(guarded).alter.add_constraint({"positive": "id > 0"})
    with pytest.raises(TableFormatError, match=r"asks more of its writers .*delta\.constraints\.positive"):
        run_job(job, day, f"delta://{guarded}")
    spaced = write_parquet(tmp_path / "spaced.parquet", pa.table({"text": ["a"], "the id": [1]}))
    with pytest.raises(UnsupportedColumnError, match="'the id' has a character in its name"):
        run_job(job, spaced, f"delta://{tmp_path / 'new'}")
    timed = write_parquet(tmp_path / "timed.parquet", pa.table({"text": ["a"], "at": pa.array([1], pa.time64("us"))}))
    with pytest.raises(UnsupportedColumnError, match="'at' is of the type time64"):
        run_job(job, timed, f"delta://{tmp_path / 'new'}")
    with pytest.raises(ConfigurationError, match="names a state of the table"):
        run_job(job, day, f"delta://{other}?version=0")
    with pytest.raises(ConfigurationError, match="are the same table"):
        run_job(job, f"delta://{other}", f"delta://{other}")
    with pytest.raises(ConfigurationError, match="which is another one"):
        run_job(job, day, f"delta://{other}/ds=2026-01-02")
    assert request_log.rows() == []
    assert not (tmp_path / "new").exists()


def test_rows_of_another_partition_are_refused(echo_job: Any, tmp_path: Path, write_parquet: Write) -> None:
    source = write_parquet(
        tmp_path / "mixed.parquet", pa.table({"text": ["a", "b"], "ds": ["2026-01-01", "2026-01-02"]})
    )
    with pytest.raises(
        UnsupportedColumnError, match="have '2026-01-02' in the column 'ds' that the table is partitioned"
    ):
        run_job(echo_job(), source, f"delta://{tmp_path / 'out'}/ds=2026-01-01")
    assert not (tmp_path / "out" / "_delta_log").exists()


def test_columns_of_every_kind_go_in_and_come_back(echo_job: Any, tmp_path: Path, write_parquet: Write) -> None:
    table = pa.table(
        {
            "text": pa.array(["a", "b"]).dictionary_encode(),
            "small": pa.array([200, None], pa.uint8()),
            "large": pa.array(["x", "y"], pa.large_string()),
            "at": pa.array([1_700_000_000_000_000_000, None], pa.timestamp("ns")),
            "zoned": pa.array([1_700_000_000_000, None], pa.timestamp("ms", "Europe/Berlin")),
            "price": pa.array([1, None], pa.decimal128(12, 2)),
            "nested": pa.array([{"a": [1, None], "b": {"c": True}}, None]),
            "pair": pa.array([[1.0, 2.0], None], pa.list_(pa.float64(), 2)),
            "counts": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())),
            "raw": pa.array([b"\0", None], pa.binary(1)),
        }
    )
    source = write_parquet(tmp_path / "all.parquet", table)
    run_job(echo_job(), source, f"delta://{tmp_path / 'out'}")
    read = pa.table(table_at(tmp_path / "out").scan()).to_pylist()
    assert [{name: row[name] for name in table.column_names} for row in read] == table.to_pylist()
    assert "timestampNtz" in (table_at(tmp_path / "out").protocol().reader_features or ())
    assert run_job(echo_job(), source, f"delta://{tmp_path / 'out'}").skipped == "up_to_date"
    finer = write_parquet(
        tmp_path / "finer.parquet", pa.table({"text": ["a"], "at": pa.array([1], pa.timestamp("ns"))})
    )
    with pytest.raises(UnsupportedColumnError, match=r"'at' is of the type timestamp.*cannot hold"):
        run_job(echo_job(), finer, f"delta://{tmp_path / 'finer'}")


@pytest.mark.integration
def test_a_table_in_a_store_is_written(
    echo_job: Any, lake: Path, object_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = object_store.endpoint.removeprefix("http://")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    address = f"delta+{object_store.url('tagged')}?scheme=http&region=us-east-1&endpoint_override={host}"

    def strike(step: str) -> None:
        if step == "placed":
            raise StruckError

    monkeypatch.setattr(fail_points, "observer", strike)
    with pytest.raises(StruckError):
        run_job(echo_job(prompt_template="{text}"), lake / f"ds={DAYS[0]}", address)
    monkeypatch.setattr(fail_points, "observer", None)
    job = echo_job(prompt_template="{text}")
    run_job(job, lake, address)
    assert run_job(job, lake, address).skipped == "up_to_date"
    options = {"aws_endpoint_url": object_store.endpoint, "aws_allow_http": "true", "aws_region": "us-east-1"}
    table = deltalake.DeltaTable(object_store.url("tagged"), storage_options=options)
    assert (table.version(), pa.table(table.scan()).num_rows) == (1, 10)
    objects = [path for path in object_store.objects(object_store.url("tagged")) if "_delta_log" not in path]
    assert sorted(f"s3://{path}" for path in objects) == sorted(table.file_uris())
    log = [path for path in object_store.objects(object_store.url("tagged")) if path.endswith("01.json")]
    with object_store.filesystem.open_input_stream(log[0]) as stream:
        notes = json.loads(stream.read().splitlines()[0])["commitInfo"]["airflow_mullama"]
    assert notes["partition"] == f"ds={DAYS[1]}"
