from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.errors import OutputUnreadableError
from airflow_mullama.manifest import FOOTER_KEY
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.parquet.read_back import require_readable

TABLE = pa.table({"id": pa.array(range(1000)), "text": [f"row {number}" for number in range(1000)]})
FOOTER = b"the manifest"


def write(path: Path) -> None:
    with pq.ParquetWriter(path, TABLE.schema, compression="none", use_dictionary=False) as writer:
        writer.write_table(TABLE)
        writer.add_key_value_metadata({FOOTER_KEY: FOOTER})


def check(path: Path, *, schema: pa.Schema = TABLE.schema, rows: int = 1000, footer: bytes = FOOTER) -> None:
    with path.open("r+b") as file:
        require_readable(file, local_location(str(path)), schema, rows, {FOOTER_KEY: footer})
        assert not file.closed
        file.read(1)  # its handle is left open


def test_what_was_written_passes(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    check(tmp_path / "a.parquet")


@pytest.mark.parametrize("wrong", [{"rows": 999}, {"footer": b"another"}, {"schema": TABLE.schema.remove(0)}])
def test_other_rows_columns_or_notes_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    write(tmp_path / "a.parquet")
    with pytest.raises(OutputUnreadableError, match="not published"):
        check(tmp_path / "a.parquet", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("column", [0, 1])
def test_a_column_whose_first_page_is_damaged_is_refused(tmp_path: Path, column: int) -> None:
    path = tmp_path / "a.parquet"
    write(path)
    place = pq.ParquetFile(path).metadata.row_group(0).column(column).data_page_offset
    content = bytearray(path.read_bytes())
    content[place : place + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(OutputUnreadableError, match="cannot be read back"):
        check(path)


def test_a_file_without_its_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OutputUnreadableError, match="cannot be read back"):
        check(path)
