from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.errors import InputChangedError, InputNotFoundError, InputUnreadableError
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.parquet_input import BATCH_ROWS, ParquetInput, open_input


def opened(*paths: Path) -> ParquetInput:
    return open_input([local_location(str(path)) for path in paths])


def rows_of(source: ParquetInput, first_row: int = 0) -> list[int]:
    return [row for batch in source.batches(["id"], first_row=first_row) for row in batch.column("id").to_pylist()]


@pytest.fixture
def three_files(tmp_path: Path) -> ParquetInput:
    """Rows 0 to 9999 in three files; the middle one is empty, the groups are small."""
    paths = []
    for name, start, stop in (("a", 0, 4500), ("b", 4500, 4500), ("c", 4500, 10_000)):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"id": pa.array(range(start, stop), pa.int64())}), path, row_group_size=700)
        paths.append(path)
    return opened(*paths)


def test_files_follow_each_other(three_files: ParquetInput) -> None:
    assert three_files.rows == 10_000
    assert rows_of(three_files) == list(range(10_000))
    assert max(batch.num_rows for batch in three_files.batches()) <= BATCH_ROWS


@pytest.mark.parametrize("first", [1, 699, 700, 701, 4499, 4500, 4501, 9999, 10_000])
def test_reading_may_begin_at_any_row(three_files: ParquetInput, first: int) -> None:
    assert rows_of(three_files, first) == list(range(first, 10_000))


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"a": [{"b": 1}], "a.b": ["top"], "c": [3]})
    pq.write_table(table, path)
    (batch,) = opened(path).batches(["c"])
    assert batch.schema.names == ["c"]
    (batch,) = opened(path).batches(["a.b"])
    assert batch.column("a.b").to_pylist() == ["top"]
    (batch,) = opened(path).batches([])
    assert batch.num_rows == 1


@pytest.mark.parametrize(
    "data_type",
    [
        pa.struct([("colour", pa.dictionary(pa.int32(), pa.string()))]),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
    ],
)
def test_a_dictionary_inside_of_another_type_is_read_across_row_groups(tmp_path: Path, data_type: pa.DataType) -> None:
    value = {"colour": "red"} if pa.types.is_struct(data_type) else ["red"]
    pq.write_table(pa.table({"a": pa.array([value] * 5, data_type)}), tmp_path / "a.parquet", row_group_size=2)
    batches = list(opened(tmp_path / "a.parquet").batches())
    assert [row for batch in batches for row in batch.column("a").to_pylist()] == [value] * 5


def test_the_identity_changes_with_the_content_and_not_with_the_reading(tmp_path: Path, write_parquet: Any) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["x", "y"])
    first = opened(path).identity
    assert opened(path).identity == first
    write_parquet(path, ["x", "z"])
    assert opened(path).identity != first


def test_the_identity_depends_on_the_order_of_files(tmp_path: Path, write_parquet: Any) -> None:
    a, b = (write_parquet(tmp_path / name, ["x"]) for name in ("a.parquet", "b.parquet"))
    assert opened(a, b).identity != opened(b, a).identity


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"no parquet at all, just text that is long enough to have a footer", b"PAR1" * 20]
)
def test_what_is_not_parquet_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    with pytest.raises(InputUnreadableError) as caught:
        opened(path)
    message = str(caught.value)
    assert f"{str(path)!r} is not a readable Parquet file" in message
    assert "write it again" in message
    assert "\n" not in message


def test_a_truncated_file_is_one_sentence(tmp_path: Path, write_parquet: Any) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["x" * 50] * 1000)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputUnreadableError, match="is not a readable Parquet file"):
        opened(path)


def test_damage_in_the_middle_is_found_while_reading(tmp_path: Path, write_parquet: Any) -> None:
    path = write_parquet(tmp_path / "a.parquet", [f"{row} some text" for row in range(1000)], compression="zstd")
    content = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    source = opened(path)
    with pytest.raises(InputUnreadableError, match=r"a\.parquet.*is not a readable Parquet file"):
        list(source.batches())


def test_files_of_one_partition_with_different_columns_are_told_apart(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "text": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": ["1"], "text": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(InputUnreadableError, match=r"'a.parquet' and 'b.parquet'.*'id' is int64 in one and string"):
        opened(tmp_path / "a.parquet", tmp_path / "b.parquet")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["x", "x"]), tmp_path / "a.parquet")
    with pytest.raises(InputUnreadableError, match="several columns named 'x'"):
        opened(tmp_path / "a.parquet")


def test_a_file_that_vanishes_or_changes_is_said_to(tmp_path: Path, write_parquet: Any) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["x", "y"])
    source = opened(path)
    write_parquet(path, ["x"])
    with pytest.raises(InputChangedError, match="had 2 rows and now has 1"):
        list(source.batches())
    path.unlink()
    with pytest.raises(InputChangedError, match="vanished"):
        list(source.batches())
    with pytest.raises(InputNotFoundError):
        opened(path)
