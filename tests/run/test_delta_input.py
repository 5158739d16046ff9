"""Jobs whose input is a Delta table: its rows, its partitions, and what a commit to it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import list_partitions, run_job

deltalake = pytest.importorskip("deltalake")

pytestmark = pytest.mark.usefixtures("no_worker_left")


def write_days(address: str, *days: str, mode: str = "append", **options: Any) -> None:
    rows = pa.table({"id": list(range(3 * len(days))), "ds": [day for day in days for _ in range(3)]})
    texts = pa.array([f"ticket {number}" for number in range(rows.num_rows)])
    deltalake.write_deltalake(address, rows.append_column("text", texts), partition_by="ds", mode=mode, **options)


def read(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read()


def test_each_partition_has_its_output_and_a_commit_elsewhere_costs_it_nothing(
    echo_job: Any, tmp_path: Path, request_log: Any
) -> None:
    table, output = tmp_path / "tickets", tmp_path / "out"
    write_days(str(table), "2026-01-01", "2026-01-02")
    job = echo_job(prompt_template="{ds}: {text}")
    manifest = run_job(job, f"delta://{table}", output)
    assert (manifest.rows, len(manifest.partitions)) == (6, 2)
    day = read(output / "ds=2026-01-02" / "part-00000.parquet")
    assert day.column_names[:3] == ["id", "ds", "text"]
    assert day.column("response").to_pylist() == [f"2026-01-02: ticket {number}" for number in (3, 4, 5)]
    request_log.clear()

    deltalake.DeltaTable(str(table)).delete("id = 4")
    write_days(str(table), "2026-01-03")
    again = run_job(job, f"delta://{table}", output)
    assert [one.skipped for one in again.partitions] == ["up_to_date", None, None]
    assert [one.reused_rows for one in again.partitions] == [0, 2, 0]
    assert read(output / "ds=2026-01-02" / "part-00000.parquet").column("id").to_pylist() == [3, 5]
    assert len(request_log.rows()) == 3

    pinned = run_job(job, f"delta://{table}?version=0", tmp_path / "pinned")
    assert (pinned.rows, pinned.input_path) == (6, f"delta://{table}")


def test_partitions_are_listed_for_mapped_tasks(echo_job: Any, tmp_path: Path) -> None:
    table = tmp_path / "tickets"
    write_days(str(table), "2026-01-01", "2026-01-02", "2026-01-03")
    for balance in ("bytes", "rows"):
        listed = list_partitions(
            f"delta://{table}", tmp_path / "out", where={"ds": {"from": "2026-01-02"}}, balance=balance, max_tasks=1
        )
        assert listed == [
            {
                "input_path": [f"delta://{table}/ds={day}" for day in ("2026-01-02", "2026-01-03")],
                "output_path": [f"{tmp_path}/out/ds={day}/part-00000.parquet" for day in ("2026-01-02", "2026-01-03")],
            }
        ]
    manifest = run_job(echo_job(), listed[0]["input_path"], listed[0]["output_path"])
    assert [one.rows for one in manifest.partitions] == [3, 3]


@pytest.mark.integration
def test_a_table_in_a_store_is_read(
    echo_job: Any, tmp_path: Path, object_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = object_store.endpoint.removeprefix("http://")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    options = {"aws_endpoint_url": object_store.endpoint, "aws_allow_http": "true", "aws_region": "us-east-1"}
    write_days(object_store.url("tickets"), "2026-01-01", "2026-01-02", storage_options=options)
    address = f"delta+{object_store.url('tickets')}?scheme=http&region=us-east-1&endpoint_override={host}"
    manifest = run_job(echo_job(), address, tmp_path / "out")
    assert (manifest.rows, manifest.partitions[0].input_path) == (6, address.replace("?", "/ds=2026-01-01?"))
    assert read(tmp_path / "out" / "ds=2026-01-02" / "part-00000.parquet").column("id").to_pylist() == [3, 4, 5]
