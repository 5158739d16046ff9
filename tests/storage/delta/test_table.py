"""Delta tables: what is read is what deltalake's own scan gives, in a stable order."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama.errors import (
    ConfigurationError,
    DependencyMissingError,
    InputNotFoundError,
    InputUnreadableError,
    TableFormatError,
    UnsupportedColumnError,
)
from airflow_mullama.storage.filesystems import resolve_location
from airflow_mullama.storage.partitions import Partition, discover_partitions
from tests.storage.delta.other_writer import DELETIONS, DeltaWriter, field, mapped, removed, with_ids

deltalake = pytest.importorskip("deltalake")

STRUCT = {"type": "struct", "fields": [mapped("language", "string", "s-1", 4), mapped("score", "double", "s-2", 5)]}
ELEMENT = {"type": "struct", "fields": [mapped("language", "string", "t-1", 10), mapped("score", "double", "t-2", 11)]}
LIST = {"type": "array", "elementType": ELEMENT, "containsNull": True}
MAP = {"type": "map", "keyType": "string", "valueType": "long", "valueContainsNull": True}


def partitions(table: Path, tail: str = "", **options: Any) -> list[Partition]:
    return discover_partitions(f"delta://{table}{tail}", table.parent / "out", **options)


def rows_of(partition: Partition, columns: list[str] | None = None, first_row: int = 0) -> list[dict[str, Any]]:
    source = partition.open()
    return [row for batch in source.batches(columns, first_row=first_row) for row in batch.to_pylist()]


def scanned(table: Path, version: int | None = None) -> list[dict[str, Any]]:
    """What deltalake itself reads."""
    return pa.table(deltalake.DeltaTable(str(table), version=version).scan()).to_pylist()


def text_file(*ids: int) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64()), "text": [f"ticket {number}" for number in ids]})


@pytest.fixture
def deleted_from(tmp_path: Path) -> DeltaWriter:
    """Two days; of the first, rows of both files are deleted by deletion vectors."""
    writer = DeltaWriter(tmp_path / "tickets")
    fields = [field("id", "long"), field("text", "string"), field("ds", "date")]
    writer.create(fields, partitioned_by=["ds"], features=DELETIONS)
    writer.commit(
        writer.file("b.parquet", text_file(*range(6)), {"ds": "2026-01-01"}, deleted=[0, 4], row_group_size=2),
        writer.file("a.parquet", text_file(10, 11, 12), {"ds": "2026-01-01"}, deleted=[1]),
        writer.file("other/c.parquet", text_file(20), {"ds": "2026-01-02"}),
        writer.file("d.parquet", text_file(30), {"ds": None}),
    )
    return writer


def test_deleted_rows_are_not_read_and_the_others_keep_their_order(deleted_from: DeltaWriter) -> None:
    null, first, second = partitions(deleted_from.folder)
    assert [row["id"] for row in rows_of(first)] == [10, 12, 1, 2, 3, 5]
    assert first.open().rows == 6
    assert [row["id"] for one in (second, null) for row in rows_of(one)] == [20, 30]
    for start in range(7):
        assert [row["id"] for row in rows_of(first, ["id"], start)] == [10, 12, 1, 2, 3, 5][start:]
    assert rows_of(second) == [{"id": 20, "text": "ticket 20", "ds": datetime.date(2026, 1, 2)}]
    assert [one.input.url.rpartition("/")[2] for one in (null, first, second)] == [
        "ds=__HIVE_DEFAULT_PARTITION__",
        "ds=2026-01-01",
        "ds=2026-01-02",
    ]
    everything = [row for one in (null, first, second) for row in rows_of(one)]
    assert sorted(everything, key=lambda row: row["id"]) == sorted(
        scanned(deleted_from.folder), key=lambda row: row["id"]
    )


def test_a_row_deleted_later_makes_another_input_and_other_partitions_stay_what_they_were(
    deleted_from: DeltaWriter,
) -> None:
    before = [one.open().identity for one in partitions(deleted_from.folder)]
    values, rows = {"ds": "2026-01-01"}, text_file(*range(6))
    once, again = (deleted_from.file("b.parquet", rows, values, deleted=gone) for gone in ([0, 4], [0, 4, 5]))
    deleted_from.commit(removed(once), again)
    found = partitions(deleted_from.folder)
    after = [one.open().identity for one in found]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]
    assert [row["id"] for row in rows_of(found[1])] == [10, 12, 1, 2, 3]
    pinned = partitions(deleted_from.folder, "?version=1")
    assert [one.open().identity for one in pinned] == before
    assert pinned[1].input.address.endswith("/ds=2026-01-01?version=1")


def test_an_open_table_is_asked_again_what_it_holds(deleted_from: DeltaWriter) -> None:
    (day,) = partitions(deleted_from.folder, "/ds=2026-01-02")
    before = day.open().identity
    deleted_from.commit(deleted_from.file("e.parquet", text_file(21), {"ds": "2026-01-02"}))
    assert day.open().identity != before
    assert [row["id"] for row in rows_of(day)] == [21, 20]  # by path


@pytest.mark.parametrize("mode", ["name", "id"])
def test_columns_of_other_names_and_later_columns_are_read_as_the_table_has_them(tmp_path: Path, mode: str) -> None:
    writer = DeltaWriter(tmp_path / "tickets")
    fields = [
        mapped("id", "long", "col-1", 1),
        mapped("the text", "string", "col-2", 2),
        mapped("label", STRUCT, "col-3", 3),
        mapped("labels", LIST, "col-6", 6),
        mapped("counts", MAP, "col-7", 7),
        mapped("added later", "integer", "col-8", 8),
        mapped("ds", "string", "col-9", 9),
    ]
    configuration = {"delta.columnMapping.mode": mode, "delta.columnMapping.maxColumnId": "11"}
    writer.create(fields, partitioned_by=["ds"], features=("columnMapping",), configuration=configuration)
    label = pa.struct(with_ids([pa.field("s-2", pa.float64()), pa.field("s-1", pa.string())], [5, 4]))
    element = pa.struct(with_ids([pa.field("t-2", pa.float64()), pa.field("t-1", pa.string())], [11, 10]))
    value, other = {"s-1": "en", "s-2": 0.5}, {"t-1": "de", "t-2": 1.5}
    names = ("col-1", "col-2", "col-3", "col-6", "col-7") if mode == "name" else ("v", "w", "x", "y", "z")
    stored = with_ids(
        [
            pa.field(names[0], pa.int32()),  # narrower than the table's: the type was widened later
            pa.field(names[1], pa.string()),
            pa.field(names[2], label),
            pa.field(names[3], pa.list_(element)),
            pa.field(names[4], pa.map_(pa.string(), pa.int64())),
        ],
        [1, 2, 3, 6, 7],
    )
    content = [[1, 2, 3], ["a", None, "c"], [value, None, value], [[other, None], None, []]]
    table = pa.table([*content, [[("x", 1)], None, []]], schema=stored)
    writer.commit(writer.file("x/f.parquet", table, {"col-9": "a b/c%=ü"}))
    (partition,) = partitions(writer.folder)
    assert partition.input.url.endswith("/ds=a b%2Fc%25%3D%C3%BC")
    read = rows_of(partition)
    assert list(read[0]) == [one["name"] for one in fields]
    assert read[0]["label"] == {"language": "en", "score": 0.5}
    assert read[0]["labels"] == [{"language": "de", "score": 1.5}, None]
    assert read[1] == {name: "a b/c%=ü" if name == "ds" else 2 if name == "id" else None for name in read[0]}
    assert partition.open().schema.field("id").type == pa.int64()
    assert [row["the text"] for row in rows_of(partition, ["the text", "ds"], 1)] == [None, "c"]
    assert [list(row.values()) for row in rows_of(partition, ["ds"])] == [["a b/c%=ü"]] * 3
    if mode == "name":
        assert read == scanned(writer.folder)


def test_old_timestamps_are_read_as_the_table_has_them(tmp_path: Path) -> None:
    writer = DeltaWriter(tmp_path / "tickets")
    writer.create([field("at", "timestamp")])
    utc = datetime.timezone.utc
    moments = [datetime.datetime(year, 1, 31, 12, 30, tzinfo=utc) for year in (1, 2026, 9999)]
    table = pa.table({"at": pa.array(moments, pa.timestamp("us"))})
    writer.commit(writer.file("f.parquet", table, use_deprecated_int96_timestamps=True))
    (partition,) = partitions(writer.folder)
    assert [row["at"] for row in rows_of(partition)] == moments
    assert partition.output.path.endswith("/out/tickets.parquet")  # a table without partitions


def test_where_and_the_address_choose_partitions(deleted_from: DeltaWriter) -> None:
    folder = deleted_from.folder
    for where in ({"ds": "2026-01-01"}, {"ds": {"from": "2026-01-01", "to": "2026-01-01"}}):
        assert [one.input.name for one in partitions(folder, where=where)] == ["ds=2026-01-01"]
    assert [one.input.name for one in partitions(folder, "/ds=2026-01-02")] == ["ds=2026-01-02"]
    with pytest.raises(InputNotFoundError, match=r"tickets' has no partition ds=2026-01-09\."):
        partitions(folder, "/ds=2026-01-09")
    with pytest.raises(InputNotFoundError, match=r"No partition of .*matches where"):
        partitions(folder, where={"ds": "2026-01-09"})
    with pytest.raises(ConfigurationError, match="where names 'day'"):
        partitions(folder, where={"day": "2026-01-09"})


def test_what_is_no_table_or_no_version_of_it_is_said(deleted_from: DeltaWriter, tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"There is no table at 'delta:.*/nothing'"):
        partitions(tmp_path / "nothing")
    assert partitions(tmp_path / "nothing", leave_out_missing=True) == []
    with pytest.raises(ConfigurationError, match="has no such version"):
        partitions(deleted_from.folder, "?version=77")
    with pytest.raises(ConfigurationError, match="it must be a whole number"):
        partitions(deleted_from.folder, "?version=x")
    with pytest.raises(ConfigurationError, match="is one file and"):
        discover_partitions(f"delta://{deleted_from.folder}", tmp_path / "one.parquet")
    with pytest.raises(ConfigurationError, match="lies in the directory of the table"):
        discover_partitions(f"delta://{deleted_from.folder}", deleted_from.folder / "out")


def test_a_table_that_needs_more_of_its_readers_is_refused(tmp_path: Path) -> None:
    writer = DeltaWriter(tmp_path / "new")
    writer.create([field("id", "long")], features=("someNewFeature",))
    with pytest.raises(TableFormatError, match="new' needs"):
        partitions(writer.folder)
    writer = DeltaWriter(tmp_path / "variant")
    writer.create([field("any", "variant")], features=("variantType",))
    with pytest.raises(UnsupportedColumnError, match="'any' is a variant"):
        partitions(writer.folder)
    writer = DeltaWriter(tmp_path / "clone")
    writer.create([field("id", "long")])
    elsewhere = writer.file("here.parquet", pa.table({"id": [1]}))
    elsewhere["add"]["path"] = "file:///elsewhere/there.parquet"
    writer.commit(elsewhere)
    with pytest.raises(TableFormatError, match="outside of its directory"):
        partitions(writer.folder)


def test_a_damaged_log_and_a_file_that_is_gone_are_said(deleted_from: DeltaWriter) -> None:
    (day,) = partitions(deleted_from.folder, "/ds=2026-01-02")
    (deleted_from.folder / "other" / "c.parquet").unlink()
    with pytest.raises(InputNotFoundError, match=r"c\.parquet' is not there"):
        _ = day.open().rows
    (deleted_from.folder / "_delta_log" / f"{1:020d}.json").write_text("{ no log")
    with pytest.raises(InputUnreadableError, match="tickets' cannot be read"):
        partitions(deleted_from.folder)


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(DependencyMissingError, match=r"pip install 'airflow-mullama\[delta\]'"):
        partitions(tmp_path / "tickets")


@pytest.mark.parametrize("address", ["delta://lake/tickets", "delta+s3://", "delta:///"])
def test_an_address_that_names_no_table_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="names no table; write delta:///path with three slashes"):
        resolve_location(address)
