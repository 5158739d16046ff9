"""Listing only the partitions that changed since their outputs were made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama import list_partitions, run_job
from tests.storage.iceberg.catalogs import configure, days, partitioned_table

DAYS = ("2026-01-01", "2026-01-02")


def listed(source: str, output: str) -> list[str]:
    """The days that are listed."""
    return [str(one["input_path"]).rpartition("ds=")[2] for one in list_partitions(source, output, incremental=True)]


def test_of_a_delta_table(echo_job: Any, tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    source = f"delta://{tmp_path}/tickets"
    deltalake.write_deltalake(f"{tmp_path}/tickets", days(*DAYS), partition_by="ds")
    for output in (f"delta://{tmp_path}/tagged", str(tmp_path / "files")):
        assert listed(source, output) == list(DAYS)
        run_job(echo_job(), source, output)
        assert listed(source, output) == []
    deltalake.write_deltalake(f"{tmp_path}/tickets", days("2026-01-03", start=20), mode="append")
    deltalake.DeltaTable(f"{tmp_path}/tickets").delete("id = 1")
    for output in (f"delta://{tmp_path}/tagged", str(tmp_path / "files")):
        assert listed(source, output) == [DAYS[0], "2026-01-03"]
    # Somebody takes an output away, or writes it anew.
    deltalake.DeltaTable(f"{tmp_path}/tagged").optimize.compact()
    deltalake.DeltaTable(f"{tmp_path}/tagged").delete(f"ds = '{DAYS[1]}'")
    assert listed(source, f"delta://{tmp_path}/tagged") == [*DAYS, "2026-01-03"]


def test_of_an_iceberg_table(echo_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyiceberg")
    catalog = configure(monkeypatch, "shop", tmp_path / "catalog", f"file://{tmp_path}/warehouse")
    table = partitioned_table(catalog, "lake.tickets", days(*DAYS))
    source, output = "iceberg://shop/lake.tickets", "iceberg://shop/lake.tagged"
    assert listed(source, output) == list(DAYS)
    run_job(echo_job(), source, output)
    assert listed(source, output) == []
    table.delete("id = 4")
    assert listed(source, output) == [DAYS[1]]


def test_of_files_and_rows_that_are_to_be_tried_again(echo_job: Any, tmp_path: Path, write_parquet: Any) -> None:
    source, output = str(tmp_path / "in"), str(tmp_path / "out")
    for day in DAYS:
        write_parquet(tmp_path / "in" / f"ds={day}" / "a.parquet", ["a", "b", "c"])
    run_job(echo_job(faults={"fail": [1]}, max_retries=0, max_error_ratio=1.0), f"{source}/ds={DAYS[0]}", output)
    run_job(echo_job(), f"{source}/ds={DAYS[1]}", output)
    assert listed(source, output) == [DAYS[0]]
    run_job(echo_job(), f"{source}/ds={DAYS[0]}", output)
    assert listed(source, output) == []
    write_parquet(tmp_path / "in" / f"ds={DAYS[1]}" / "b.parquet", pa.table({"id": [9], "text": ["d"]}))
    assert listed(source, output) == [DAYS[1]]
