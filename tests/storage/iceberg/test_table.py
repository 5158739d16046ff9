"""Iceberg tables: what is read is what pyiceberg's own scan gives, in a stable order."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.errors import (
    ConfigurationError,
    DependencyMissingError,
    InputNotFoundError,
    StorageUnavailableError,
    TableFormatError,
)
from airflow_mullama.storage.filesystems import resolve_location
from airflow_mullama.storage.partitions import Partition, discover_partitions
from airflow_mullama.storage.tables.table import partition_of
from tests.storage.iceberg.catalogs import configure, days, partitioned_table
from tests.storage.iceberg.other_writer import delete_positions

pyiceberg = pytest.importorskip("pyiceberg")

from airflow_mullama.storage.iceberg.table import IcebergHandle  # noqa: E402


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return configure(monkeypatch, "shop", tmp_path / "catalog", f"file://{tmp_path}/warehouse")


def partitions(address: str, tmp_path: Path, **options: Any) -> list[Partition]:
    return discover_partitions(address, tmp_path / "out", **options)


def rows_of(partition: Partition, columns: list[str] | None = None, first_row: int = 0) -> list[dict[str, Any]]:
    return [row for batch in partition.open().batches(columns, first_row=first_row) for row in batch.to_pylist()]


def scanned(table: Any) -> list[dict[str, Any]]:
    return sorted(table.refresh().scan().to_arrow().to_pylist(), key=lambda row: row["id"])


def test_rows_deleted_by_another_writer_are_not_read(catalog: Any, tmp_path: Path) -> None:
    table = partitioned_table(
        catalog,
        "lake.tickets",
        days("a", "b", rows=10),
        **{"write.parquet.row-group-limit": "4", "format-version": "2"},
    )
    before = [one.open().identity for one in partitions("iceberg://shop/lake.tickets", tmp_path)]
    (task,) = table.scan("ds = 'a'").plan_files()
    delete_positions(table, task.file, [0, 4, 9])
    delete_positions(table.refresh(), task.file, [4, 5])
    first, second = partitions("iceberg://shop/lake.tickets", tmp_path)
    kept = [1, 2, 3, 6, 7, 8]
    assert [row["id"] for row in rows_of(first)] == kept
    for start in range(7):
        assert [row["id"] for row in rows_of(first, ["id"], start)] == kept[start:]
    assert (first.open().identity != before[0], second.open().identity) == (True, before[1])
    assert sorted([*rows_of(first), *rows_of(second)], key=lambda row: row["id"]) == scanned(table)


def test_deletes_by_value_are_refused(catalog: Any, tmp_path: Path) -> None:
    table = partitioned_table(catalog, "lake.tickets", days("a"))
    (task,) = table.scan().plan_files()
    delete_positions(table, task.file, [0], content="EQUALITY_DELETES")
    with pytest.raises(TableFormatError, match=r"needs what pyiceberg cannot read: .*equality deletes"):
        partitions("iceberg://shop/lake.tickets", tmp_path)


def test_columns_are_found_by_their_ids(catalog: Any, tmp_path: Path) -> None:
    from pyiceberg.types import DoubleType, LongType, StringType

    nested = pa.array([{"language": "en", "score": 1}, None, {"language": None, "score": 2}])
    rows = pa.table({"id": pa.array([1, 2, 3], pa.int32()), "label": nested, "text": ["a", "b", "c"], "ds": ["x"] * 3})
    table = partitioned_table(catalog, "lake.tickets", rows)
    with table.update_schema() as update:
        update.update_column("id", LongType())
        update.rename_column("text", "the text")
        update.rename_column("label.score", "points")
        update.add_column(("label", "sure"), DoubleType())
        update.delete_column("label.language")
    with table.update_schema() as update:
        update.add_column("text", StringType())
    table.append(pa.table({"id": [4], "the text": ["d"], "text": ["new"], "ds": ["x"]}))
    (partition,) = partitions("iceberg://shop/lake.tickets", tmp_path)
    read = sorted(rows_of(partition), key=lambda row: row["id"])
    assert read == scanned(table)
    assert read[0] == {"id": 1, "label": {"points": 1, "sure": None}, "the text": "a", "ds": "x", "text": None}
    only = sorted(rows_of(partition, ["text", "id"]), key=lambda row: row["id"])
    assert only == [{"text": row["text"], "id": row["id"]} for row in read]


def test_a_table_without_partitions_is_one(catalog: Any, tmp_path: Path) -> None:
    table = catalog.create_table("lake.flat", schema=days("a").schema)
    with pytest.raises(InputNotFoundError, match=r"lake\.flat' has no rows"):
        partitions("iceberg://shop/lake.flat", tmp_path)
    table.append(days("a", "b"))
    (partition,) = partitions("iceberg://shop/lake.flat", tmp_path)
    assert [row["id"] for row in rows_of(partition)] == list(range(6))
    assert partition.output.path.endswith("/out/lake.flat.parquet")


def test_hidden_partitions_have_the_names_that_the_table_gives_them(catalog: Any, tmp_path: Path) -> None:
    from pyiceberg.transforms import DayTransform

    at = [datetime.datetime(2026, 1, day, 5, tzinfo=datetime.timezone.utc) for day in (1, 2, 2)]
    rows = pa.table({"id": [1, 2, 3], "at": pa.array(at, pa.timestamp("us", "UTC"))})
    made = catalog.create_table_transaction("lake.events", schema=rows.schema)
    with made as transaction, transaction.update_spec() as spec:
        spec.add_field("at", DayTransform(), "at_day")
    table = catalog.load_table("lake.events")
    for day, part in enumerate((rows.slice(0, 1), rows.slice(1))):
        pq.write_table(part, tmp_path / f"{day}.parquet")
    table.add_files([f"file://{tmp_path}/{day}.parquet" for day in range(2)])
    found = partitions("iceberg://shop/lake.events", tmp_path, where={"at_day": "2026-01-02"})
    assert [one.input.url for one in found] == ["iceberg://shop/lake.events/at_day=2026-01-02"]
    assert [row["id"] for row in rows_of(found[0])] == [2, 3]
    with catalog.load_table("lake.events").update_spec() as update:
        update.add_identity("id")
    with pytest.raises(TableFormatError, match="from before its partitions were changed"):
        partitions("iceberg://shop/lake.events", tmp_path)


def manifests_of(table: Any) -> dict[str, Path]:
    """Where the manifest of each partition lies, by its value; each was an append of its own."""
    found = table.current_snapshot().manifests(table.io)
    return {one.partitions[0].lower_bound.decode(): Path(one.manifest_path.removeprefix("file://")) for one in found}


def test_manifests_of_partitions_that_are_not_wanted_are_not_read(catalog: Any, tmp_path: Path) -> None:
    table = partitioned_table(catalog, "lake.tickets", days("2026-01-01"))
    for day in ("2026-01-11", "2026-01-21"):
        table.append(days(day))
    with table.update_schema() as update:
        update.rename_column("ds", "day")  # the partition keeps its name
    with pytest.raises(InputNotFoundError, match=r"those there have ds 2026-01-01, 2026-01-11, 2026-01-21"):
        partitions("iceberg://shop/lake.tickets", tmp_path, where={"ds": {"from": "2026-02-01"}})
    with pytest.raises(ConfigurationError, match=r"where names 'region', .* have the hive key\(s\) 'ds'"):
        partitions("iceberg://shop/lake.tickets", tmp_path, where={"ds": "2026-01-11", "region": "eu"})
    manifests = manifests_of(catalog.load_table("lake.tickets"))
    manifests["2026-01-01"].unlink()
    manifests["2026-01-21"].unlink()
    address = "iceberg://shop/lake.tickets/ds=2026-01-11"
    found = [
        *partitions(address, tmp_path),
        *partitions("iceberg://shop/lake.tickets", tmp_path, where={"ds": ["2026-01-11", "2026-01-12"]}),
    ]
    assert [one.input.url for one in found] == [address] * 2
    assert [[row["day"] for row in rows_of(one)] for one in found] == [["2026-01-11"] * 3] * 2
    with pytest.raises(StorageUnavailableError):
        partitions("iceberg://shop/lake.tickets", tmp_path)


def test_who_asks_for_many_partitions_one_by_one_has_them_planned_once(catalog: Any, tmp_path: Path) -> None:
    table = partitioned_table(catalog, "lake.tickets", days("a"))
    for value in "bcde":
        table.append(days(value))
    state = IcebergHandle(resolve_location("iceberg://shop/lake.tickets")).current()
    assert state is not None
    assert partition_of(state, {"ds": "z"}) is None
    assert [partition_of(state, {"ds": value}) is None for value in "ac"] == [False, False]
    for manifest in manifests_of(table).values():
        manifest.unlink()
    assert [partition_of(state, {"ds": value}) is None for value in "abcdez"] == [False] * 5 + [True]


def test_what_is_no_table_is_said(catalog: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputNotFoundError, match=r"There is no table at 'iceberg://shop/lake\.nothing'"):
        partitions("iceberg://shop/lake.nothing", tmp_path)
    with pytest.raises(ConfigurationError, match=r"write iceberg://catalog/namespace\.table"):
        resolve_location("iceberg://shop/nothing")
    monkeypatch.setitem(sys.modules, "pyiceberg.io.pyarrow", None)
    with pytest.raises(DependencyMissingError, match=r"pip install 'airflow-mullama\[iceberg\]'"):
        partitions("iceberg://shop/lake.nothing", tmp_path)
