from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as parquet_encryption
import pytest

from airflow_mullama.byte_bounds import READ_BUFFERS_BYTES
from airflow_mullama.errors import InputChangedError, InputNotFoundError, InputUnreadableError
from airflow_mullama.storage.batch_rows import BATCH_ROWS
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.parquet.input import ParquetInput, open_input


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


def test_columns_of_one_name_are_told_apart_by_their_order(tmp_path: Path) -> None:
    table = pa.table([[1], ["a"], [2], ["b"]], names=["x", "text", "x", "y"])
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.select([3, 0, 1, 2]), tmp_path / "b.parquet")
    batches = list(opened(tmp_path / "a.parquet", tmp_path / "b.parquet").batches())
    assert pa.Table.from_batches(batches).combine_chunks() == pa.concat_tables([table, table]).combine_chunks()


def test_columns_of_one_name_that_are_not_equally_often_there_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1], [2]], names=["x", "x"]), tmp_path / "a.parquet")
    pq.write_table(pa.table([[1]], names=["x"]), tmp_path / "b.parquet")
    with pytest.raises(InputUnreadableError, match=r"'a.parquet' and 'b.parquet'.*column 'x' equally often"):
        opened(tmp_path / "a.parquet", tmp_path / "b.parquet")


@pytest.mark.parametrize("columns", [1, 1_000])
def test_the_buffers_of_many_columns_are_no_larger_than_those_of_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    sizes = []
    original = pq.ParquetFile

    def recording(*arguments: Any, **options: Any) -> pq.ParquetFile:
        sizes.append(options["buffer_size"])
        return original(*arguments, **options)

    pq.write_table(pa.table({f"c{number}": [1] for number in range(columns)}), tmp_path / "a.parquet")
    source = opened(tmp_path / "a.parquet")
    monkeypatch.setattr(pq, "ParquetFile", recording)
    assert sum(batch.num_columns for batch in source.batches()) == columns
    assert sizes
    assert sizes[-1] * columns <= READ_BUFFERS_BYTES


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


def write_with_count(path: Path, rows: int, said: int, *, whole: bool) -> Path:
    """Six rows in two row groups, and a footer that says ``said`` for the whole or for each group."""
    pq.write_table(pa.table({"id": range(rows)}), path, row_group_size=rows // 2)
    content = path.read_bytes()
    real = rows if whole else rows // 2
    # A zigzag varint between its field's mark and the next one's.
    before, after = (b"\x16", b"\x19\x2c") if whole else (b"\x16", b"\x26")
    marked = before + bytes([2 * real]) + after
    assert content.count(marked) >= 1
    path.write_bytes(content.replace(marked, before + bytes([2 * said]) + after))
    return path


@pytest.mark.parametrize("said", [0, 3, 9])
def test_a_footer_whose_rows_are_not_those_of_its_groups_is_refused(tmp_path: Path, said: int) -> None:
    path = write_with_count(tmp_path / "a.parquet", 6, said, whole=True)
    with pytest.raises(InputUnreadableError, match=f"its footer says {said} rows and its row groups hold 6"):
        opened(path)


def test_a_row_group_whose_rows_are_not_those_of_its_columns_is_refused(tmp_path: Path) -> None:
    path = write_with_count(tmp_path / "a.parquet", 6, 4, whole=False)
    with pytest.raises(InputUnreadableError, match="row group 0 has 4 rows and 3 values of 'id'"):
        opened(path)


class Keys(parquet_encryption.KmsClient):
    """Keys that are wrapped by nothing."""

    def __init__(self, configuration: Any) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, master: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, key: bytes, master: str) -> bytes:
        return base64.b64decode(key)


@pytest.mark.parametrize("plaintext_footer", [True, False])
def test_an_encrypted_file_is_called_so(tmp_path: Path, plaintext_footer: bool) -> None:
    path = tmp_path / "a.parquet"
    configuration = parquet_encryption.EncryptionConfiguration(
        footer_key="one", column_keys={"two": ["text"]}, plaintext_footer=plaintext_footer
    )
    properties = parquet_encryption.CryptoFactory(Keys).file_encryption_properties(
        parquet_encryption.KmsConnectionConfig(), configuration
    )
    table = pa.table({"text": ["a"], "id": [1]})
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    with pytest.raises(InputUnreadableError, match=r"encrypted.* and this package has no keys"):
        opened(path)


def test_a_file_compressed_in_a_way_that_arrow_does_not_know_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": range(100)}), path, compression="snappy", use_dictionary=False)
    content = path.read_bytes()
    codec = b"\x15\x02\x16"  # field 4 of ColumnMetaData: SNAPPY, and the mark of field 5
    assert content.count(codec) == 1
    path.write_bytes(content.replace(codec, b"\x15\x06\x16"))  # LZO
    with pytest.raises(InputUnreadableError, match=r"PyArrow [0-9.]+ cannot read: .*LZO"):
        list(opened(path).batches())
