"""Tables of Delta Lake, Iceberg and Hudi: refused from wherever a user points at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.errors import TableFormatError
from airflow_mullama.storage.filesystems import Resolver, resolve_location
from airflow_mullama.storage.partitions import discover_partitions

REMEDIES = {
    "Delta Lake": r"Give it as a table: 'delta:///.*/lake/tickets'",
    "Hudi": "Write the rows that you",
    "Iceberg": "Give it as a table: 'iceberg://catalog/namespace.table'",
}
LOGS = {
    "Delta Lake": "_delta_log/00000000000000000001.json",
    "Hudi": ".hoodie/hoodie.properties",
    "Iceberg": "metadata/v2.metadata.json",
}


def make_table(table: Path, kind: str) -> Path:
    """A table whose data lie in a partition; returns that partition's directory."""
    day = (table / "data" if kind == "Iceberg" else table) / "ds=2026-01-01"
    day.mkdir(parents=True)
    pq.write_table(pa.table({"text": ["a deleted row"]}), day / "old.parquet")
    log = table / LOGS[kind]
    log.parent.mkdir()
    log.write_text("{}")
    return day


@pytest.mark.parametrize("kind", LOGS)
def test_a_table_is_refused_with_what_to_do(tmp_path: Path, kind: str) -> None:
    day = make_table(tmp_path / "lake" / "tickets", kind)
    (tmp_path / "lake" / "plain").mkdir()
    for source in (tmp_path / "lake", tmp_path / "lake" / "tickets", day.parent, day, day / "old.parquet"):
        for where in (None, {"ds": "2026-01-01"}):
            with pytest.raises(TableFormatError, match=rf"lake/tickets' is a table of {kind}.*{REMEDIES[kind]}"):
                discover_partitions(source, tmp_path / "out", where=where)


def test_a_folder_called_metadata_makes_no_table(tmp_path: Path) -> None:
    for name in ("day.parquet", "metadata/notes.json", "metadata/more.parquet"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": ["a"]}), tmp_path / "in" / name)
    assert len(discover_partitions(tmp_path / "in", tmp_path / "out")) == 2


@pytest.mark.integration
@pytest.mark.parametrize("kind", LOGS)
def test_so_it_is_in_a_store(object_store: Any, kind: str) -> None:
    resolver: Resolver = object_store.resolve
    filesystem, bucket = object_store.filesystem, object_store.bucket
    day = "tickets/data/ds=1" if kind == "Iceberg" else "tickets/ds=1"
    for key in (f"tickets/{LOGS[kind]}", f"{day}/old.parquet"):
        filesystem.create_dir(f"{bucket}/{key}".rpartition("/")[0], recursive=True)
        with filesystem.open_output_stream(f"{bucket}/{key}") as stream:
            stream.write(b"PAR1")
    for source in ("tickets", day, f"{day}/old.parquet"):
        with pytest.raises(TableFormatError, match=f"tickets' is a table of {kind}"):
            discover_partitions(f"s3://{bucket}/{source}", f"s3://{bucket}/out", resolver)


def test_a_path_that_only_looks_so_is_none(tmp_path: Path) -> None:
    path = tmp_path / "delta_log" / "hoodie.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"text": ["a"]}), path)
    assert len(discover_partitions(path, tmp_path / "out")) == 1
    assert resolve_location(path).path == str(path)
