"""Which names in a lake are data, and how the work of listing grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.filesystems import resolve_location
from airflow_mullama.storage.hive_filter import HiveFilter
from airflow_mullama.storage.listing import KeysSeen, list_leaves
from airflow_mullama.storage.partitions import discover_partitions
from tests.counted_lines import lines_run


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": ["a"]}), path)
    return path


def listed(folder: Path) -> list[str]:
    leaves = list_leaves(resolve_location(folder), None, KeysSeen())
    return [str(Path(file.path).relative_to(folder)) for leaf in leaves for file in leaf.files]


@pytest.mark.parametrize(
    ("name", "is_data"),
    [
        ("a.parquet", True), ("a.PQ", True), ("part-00000-1a2b.c000.snappy.parquet", True), ("a.parq", True),
        ("000000_0", True), ("000001_0_copy_1", True), ("_year=2026/a.parquet", True), ("year=2026/000000_0", True),
        ("_a.parquet", False), (".a.parquet.crc", False), ("_temporary/0/a.parquet", False), (".git/a.parquet", False),
        ("a.parquet._COPYING_", False), ("a.avro", False), ("a.parquet.tmp", False), (".x=1/a.parquet", False),
    ],
)  # fmt: skip
def test_what_is_data_is_told_by_names_and_without_a_suffix_by_how_a_file_begins(
    tmp_path: Path, name: str, is_data: bool
) -> None:
    write(tmp_path / "z.parquet")
    write(tmp_path / name)
    assert sorted(listed(tmp_path)) == sorted([name, "z.parquet"] if is_data else ["z.parquet"])


def test_a_file_without_a_suffix_that_is_no_parquet_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    (tmp_path / "README").write_text("What this is about: tickets.")
    (tmp_path / "EMPTY").touch()
    assert listed(tmp_path) == ["a.parquet"]


def test_a_day_without_parquet_among_others_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "ds=1" / "000000_0")
    (tmp_path / "ds=2").mkdir()
    (tmp_path / "ds=2" / "part-0").write_text("id,text\n1,a ticket\n")
    with pytest.raises(InputUnreadableError, match=r"ds=2' holds 'part-0' and no file that is read"):
        listed(tmp_path)


def test_a_directory_with_the_name_of_a_file_keeps_it(tmp_path: Path) -> None:
    write(tmp_path / "tickets.parquet" / "part-00000.parquet")
    (partition,) = discover_partitions(f"{tmp_path}/tickets.parquet/", tmp_path / "out")
    assert partition.output.path == f"{tmp_path}/out/tickets.parquet"


@pytest.mark.integration
def test_a_key_with_two_slashes_is_refused_with_what_to_do(object_store: Any) -> None:
    boto3 = pytest.importorskip("boto3")
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=object_store.endpoint, **keys)
    client.put_object(Bucket=object_store.bucket, Key="lake//day.parquet", Body=b"PAR1")
    with pytest.raises(InputUnreadableError, match="empty name between two slashes, which Arrow cannot open; move"):
        list_leaves(object_store.resolve(f"s3://{object_store.bucket}/lake"), None, KeysSeen())


@pytest.mark.parametrize("case", ["days", "foreign days", "links", "one wanted day"])
def test_the_work_of_listing_grows_with_what_there_is_and_not_with_its_square(tmp_path: Path, case: str) -> None:
    def lake(days: int) -> Path:
        root = tmp_path / str(days)
        for day in range(days):
            folder = root / f"ds={day:04d}"
            folder.mkdir(parents=True)
            (folder / "a.parquet").touch()
            if case == "foreign days":
                (folder / "notes.txt").touch()
            if case == "links":
                (root / f"link-{day:04d}.parquet").symlink_to(folder / "a.parquet")
        return root

    where = HiveFilter.parse({"ds": "0003"}) if case == "one wanted day" else None

    def work(days: int) -> int:
        source = resolve_location(lake(days))
        return lines_run(lambda: list_leaves(source, where, KeysSeen()))

    few, many = work(100), work(400)
    assert many < 6 * few
