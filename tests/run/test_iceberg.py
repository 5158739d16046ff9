"""Jobs whose input and output are Iceberg tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import fail_points, list_partitions, run_job
from airflow_mullama.errors import ConfigurationError, OutputExistsError, TableFormatError

pyiceberg = pytest.importorskip("pyiceberg")

from tests.storage.iceberg.catalogs import configure, days, partitioned_table  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_worker_left")

DAYS = ("2026-01-01", "2026-01-02")
Write = Callable[..., Path]


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return configure(monkeypatch, "shop", tmp_path / "catalog", f"file://{tmp_path}/warehouse")


@pytest.fixture
def lake(tmp_path: Path, write_parquet: Write, texts: Callable[..., list[str]]) -> Path:
    for number, day in enumerate(DAYS):
        write_parquet(tmp_path / "in" / f"ds={day}" / "a.parquet", texts(5, start=10 * number))
    return tmp_path / "in"


def rows_of(catalog: Any, name: str) -> list[dict[str, Any]]:
    rows = catalog.load_table(name).scan().to_arrow().to_pylist()
    return sorted(rows, key=lambda row: (row["ds"] or "", row["id"]))


def data_files(catalog: Any, name: str) -> list[str]:
    return sorted(task.file.file_path.removeprefix("file://") for task in catalog.load_table(name).scan().plan_files())


def files_below(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.is_file() and "metadata" not in path.parts)


def test_partitions_are_read_and_a_commit_elsewhere_costs_nothing(catalog: Any, echo_job: Any, tmp_path: Path) -> None:
    table = partitioned_table(catalog, "lake.tickets", days(*DAYS, None))
    first = table.current_snapshot().snapshot_id
    job = echo_job(prompt_template="{ds}: {text}")
    manifest = run_job(job, "iceberg://shop/lake.tickets", tmp_path / "out")
    assert [one.input_path for one in manifest.partitions] == [
        f"iceberg://shop/lake.tickets/ds={day}" for day in ("__HIVE_DEFAULT_PARTITION__", *DAYS)
    ]
    with pq.ParquetFile(tmp_path / "out" / "ds=2026-01-02" / "part-00000.parquet") as file:
        day = file.read()
    assert day.column("response").to_pylist() == [f"2026-01-02: ticket {number}" for number in (3, 4, 5)]
    table.delete("id = 4")
    with table.update_schema() as update:
        update.rename_column("text", "body")
        update.add_column("later", pyiceberg.types.LongType())
    again = run_job(
        echo_job(prompt_template="{ds}: {body}"), "iceberg://shop/lake.tickets/ds=2026-01-02", tmp_path / "renamed"
    )
    assert (again.rows, again.status_counts) == (2, {"success": 2})
    pinned = run_job(job, f"iceberg://shop/lake.tickets?snapshot={first}", tmp_path / "pinned")
    assert (pinned.rows, len(pinned.partitions)) == (9, 3)
    table.append(days("2026-01-03", start=50).rename_columns(["id", "ds", "body"]))
    third = run_job(
        echo_job(prompt_template="{ds}: {body}"), "iceberg://shop/lake.tickets/ds=2026-01-02", tmp_path / "renamed"
    )
    assert third.skipped == "up_to_date"
    listed = list_partitions("iceberg://shop/lake.tickets", "iceberg://shop/lake.out", where={"ds": {"from": DAYS[1]}})
    assert listed == [
        {
            "input_path": f"iceberg://shop/lake.tickets/ds={day}",
            "output_path": f"iceberg://shop/lake.out/ds={day}",
        }
        for day in ("2026-01-02", "2026-01-03")
    ]


def test_a_table_is_made_and_each_partition_is_one_snapshot(
    catalog: Any,
    echo_job: Any,
    lake: Path,
    tmp_path: Path,
    texts: Any,
    request_log: Any,
    write_parquet: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, job = "iceberg://shop/lake.tagged", echo_job(prompt_template="{text}")
    manifest = run_job(job, lake, address)
    assert [one.output_path for one in manifest.partitions] == [f"{address}/ds={day}" for day in DAYS]
    table = catalog.load_table("lake.tagged")
    assert table.schema().column_names[:4] == ["id", "text", "ds", "response"]
    assert [str(field.transform) for field in table.spec().fields] == ["identity"]
    notes = [snapshot.summary.additional_properties for snapshot in table.snapshots()]
    assert [one["airflow_mullama.partition"] for one in notes] == [f"ds={day}" for day in DAYS]
    assert notes[1]["airflow_mullama.fingerprint"] == manifest.partitions[1].fingerprint
    read = rows_of(catalog, "lake.tagged")
    assert [row["response"] for row in read] == [*texts(5), *texts(5, start=10)]
    assert files_below(tmp_path / "warehouse") == data_files(catalog, "lake.tagged")
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")
    assert polars.scan_iceberg(table).collect().sort("ds", "id").to_dicts() == read
    files = data_files(catalog, "lake.tagged")
    assert duckdb.sql(f"SELECT count(response) FROM read_parquet({files!r})").fetchall() == [(10,)]

    assert run_job(job, lake, address).skipped == "up_to_date"
    assert len(catalog.load_table("lake.tagged").snapshots()) == 2
    request_log.clear()
    write_parquet(lake / f"ds={DAYS[1]}" / "a.parquet", [*texts(2, start=50), *texts(4, start=10)])
    changed = run_job(job, lake, address)
    assert [one.reused_rows for one in changed.partitions] == [0, 4]
    assert len(request_log.rows()) == 2
    assert [snapshot.summary.operation.value for snapshot in catalog.load_table("lake.tagged").snapshots()] == [
        "append",
        "append",
        "overwrite",
    ]
    assert len(rows_of(catalog, "lake.tagged")) == 11
    table = catalog.load_table("lake.tagged")
    table.delete("id = 2")
    with pytest.raises(OutputExistsError, match="was not written by this package"):
        run_job(job, lake / f"ds={DAYS[0]}", address)


def test_a_table_that_is_there_gets_the_columns(catalog: Any, echo_embed_job: Any) -> None:
    rows = pa.table({"id": [1, 2, 3], "ds": pa.array([20454, 20454, 20455], pa.date32()), "text": ["a", None, "c"]})
    partitioned_table(catalog, "lake.tickets", rows)
    kept = pa.table({"id": [9], "ds": pa.array([20459], pa.date32()), "note": ["keep me"]})
    partitioned_table(catalog, "lake.vectors", kept)
    job = echo_embed_job(options={"dimensions": 3})
    run_job(job, "iceberg://shop/lake.tickets", "iceberg://shop/lake.vectors")
    read = catalog.load_table("lake.vectors").scan().to_arrow().sort_by("id").to_pylist()
    assert [(row["id"], str(row["ds"]), row["note"]) for row in read] == [
        (1, "2026-01-01", None),
        (2, "2026-01-01", None),
        (3, "2026-01-02", None),
        (9, "2026-01-06", "keep me"),
    ]
    assert [row["embedding"] and len(row["embedding"]) for row in read] == [3, None, 3, None]
    catalog.load_table("lake.tickets").delete("id = 2")
    changed = run_job(job, "iceberg://shop/lake.tickets/ds=2026-01-01", "iceberg://shop/lake.vectors")
    assert (changed.reused_rows, changed.computed_rows) == (1, 0)
    again = catalog.load_table("lake.vectors").scan("id = 1").to_arrow().to_pylist()
    assert again[0]["embedding"] == read[0]["embedding"]


class StruckError(Exception):
    """A killed attempt, as far as files are concerned."""


def test_a_killed_attempt_leaves_no_snapshot_and_its_file_is_removed_by_the_next(
    catalog: Any, echo_job: Any, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_log: Any
) -> None:
    day, address = lake / f"ds={DAYS[0]}", "iceberg://shop/lake.tagged"

    def strike(step: str) -> None:
        if step == "placed":
            raise StruckError

    monkeypatch.setattr(fail_points, "observer", strike)
    with pytest.raises(StruckError):
        run_job(echo_job(prompt_template="{text}"), day, address)
    monkeypatch.setattr(fail_points, "observer", None)
    assert catalog.load_table("lake.tagged").snapshots() == []
    (orphan,) = (tmp_path / "warehouse").rglob("mullama-*.parquet")
    request_log.clear()
    manifest = run_job(echo_job(prompt_template="{text}"), day, address)
    assert (manifest.resumed_rows, request_log.rows()) == (5, [])
    assert not orphan.exists()
    assert files_below(tmp_path / "warehouse") == data_files(catalog, "lake.tagged")


def test_conflicts_are_tried_again_and_of_two_attempts_one_commits(
    catalog: Any, echo_job: Any, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, job = "iceberg://shop/lake.tagged", echo_job(prompt_template="{text}")
    run_job(job, lake / f"ds={DAYS[0]}", address)
    runs: list[Any] = []

    def interfere(step: str) -> None:
        if step == "placed" and not runs:
            runs.append("begun")
            catalog.load_table("lake.tagged").append(pa.table({"id": [99], "ds": ["2026-09-09"]}))
            runs[0] = run_job(echo_job(prompt_template="{text}"), lake / f"ds={DAYS[1]}", address, listeners=[])

    monkeypatch.setattr(fail_points, "observer", interfere)
    outer = run_job(job, lake / f"ds={DAYS[1]}", address)
    assert (outer.skipped, runs[0].status_counts) == ("up_to_date", {"success": 5})
    assert [row["ds"] for row in rows_of(catalog, "lake.tagged")] == [DAYS[0]] * 5 + [DAYS[1]] * 5 + ["2026-09-09"]
    below = [path for path in files_below(tmp_path / "warehouse") if "mullama-" in path]
    assert set(below) < set(data_files(catalog, "lake.tagged"))


def test_of_two_commits_at_the_same_moment_one_is_refused(
    catalog: Any, echo_job: Any, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_mullama.storage.iceberg.output import IcebergWriter

    address, job, day = "iceberg://shop/lake.tagged", echo_job(prompt_template="{text}"), lake / f"ds={DAYS[0]}"
    try_once, runs = IcebergWriter._try_once, []  # type: ignore[var-annotated]

    def commit_another_before(*arguments: Any) -> None:
        try_once(*arguments)
        if not runs:
            runs.append("begun")
            runs[0] = run_job(echo_job(prompt_template="{text}"), day, address, listeners=[])

    monkeypatch.setattr(IcebergWriter, "_try_once", commit_another_before)
    outer = run_job(job, day, address)
    assert (outer.skipped, runs[0].status_counts) == ("up_to_date", {"success": 5})
    assert len(rows_of(catalog, "lake.tagged")) == 5
    assert files_below(tmp_path / "warehouse") == data_files(catalog, "lake.tagged")


def test_what_does_not_fit_is_refused(catalog: Any, echo_job: Any, lake: Path, request_log: Any) -> None:
    day, job = lake / f"ds={DAYS[0]}", echo_job(prompt_template="{text}")
    catalog.create_table("lake.flat", schema=pa.schema([("id", pa.int64())]))
    with pytest.raises(ConfigurationError, match="is partitioned by nothing, and the input by ds"):
        run_job(job, day, "iceberg://shop/lake.flat")
    table = catalog.create_table("lake.buckets", schema=pa.schema([("id", pa.int64()), ("ds", pa.string())]))
    with table.update_spec() as spec:
        spec.add_field("id", pyiceberg.transforms.BucketTransform(4), "ds_bucket")
    with pytest.raises(TableFormatError, match=r"is partitioned by bucket\[4\]"):
        run_job(job, day, "iceberg://shop/lake.buckets")
    with pytest.raises(ConfigurationError, match="has no namespace"):
        run_job(job, day, "iceberg://shop/nowhere.tagged")
    with pytest.raises(ConfigurationError, match=r"The catalog 'elsewhere' of .*cannot be opened"):
        run_job(job, day, "iceberg://elsewhere/lake.tagged")
    partitioned_table(catalog, "lake.tickets", days(*DAYS))
    with pytest.raises(ConfigurationError, match="has no such snapshot"):
        run_job(job, "iceberg://shop/lake.tickets?snapshot=77", day.parent.parent / "out")
    assert request_log.rows() == []


@pytest.mark.integration
def test_a_warehouse_in_a_store_is_read_and_written(
    echo_job: Any, tmp_path: Path, object_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = {"s3.endpoint": object_store.endpoint, "s3.access-key-id": "test", "s3.secret-access-key": "test"}
    catalog = configure(
        monkeypatch, "store", tmp_path / "catalog", object_store.url("wh"), **s3, **{"s3.region": "us-east-1"}
    )
    partitioned_table(catalog, "lake.tickets", days(*DAYS))
    job = echo_job(prompt_template="{text}")
    run_job(job, "iceberg://store/lake.tickets", "iceberg://store/lake.tagged")
    assert run_job(job, "iceberg://store/lake.tickets", "iceberg://store/lake.tagged").skipped == "up_to_date"
    assert [row["response"] for row in rows_of(catalog, "lake.tagged")] == [f"ticket {number}" for number in range(6)]
    assert not [path for path in object_store.objects(object_store.url("wh")) if "_mullama" in path]
