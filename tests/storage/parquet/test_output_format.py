from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.errors import UnsupportedColumnError
from airflow_mullama.rows import embedding_columns, generation_columns
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.parquet.annotations import Annotation, Place
from airflow_mullama.storage.parquet.input import ParquetInput, open_input
from airflow_mullama.storage.parquet.output_format import OutputFormat


@pytest.fixture
def source(tmp_path: Path) -> ParquetInput:
    pq.write_table(pa.table({"id": [1], "text": ["a"]}), tmp_path / "a.parquet")
    return open_input([local_location(str(tmp_path / "a.parquet"))])


def test_vectors_have_no_dictionary_and_their_bytes_split(source: ParquetInput) -> None:
    options = OutputFormat.of(source, embedding_columns(3, pa.float32()), "").options
    assert options["use_byte_stream_split"] == ["embedding.list.element"]
    assert options["use_dictionary"][:3] == ["id", "text", "status"]
    assert "use_dictionary" not in OutputFormat.of(source, generation_columns(), "").options


@pytest.mark.parametrize(
    ("annotation", "named"),
    [
        (Annotation((b"\x0c", b""), b"\x08", b""), "ENUM"),
        (Annotation((b"\x0c", b""), b"", b"\x0c\x22\x00\x00"), "GEOMETRY"),
        (Annotation((b"\x0c", b""), b"", b"\x0c\xc8\x01\x00\x00"), "number 100"),
    ],
)
def test_a_logical_type_that_cannot_be_kept_is_refused_by_name(
    source: ParquetInput, annotation: Annotation, named: str
) -> None:
    wrong = replace(source, annotations={Place("id", 0, 0, is_leaf=True): annotation})
    with pytest.raises(UnsupportedColumnError, match=f"The column 'id' is of Parquet's type {named} "):
        OutputFormat.of(wrong, generation_columns(), "")


def test_a_type_that_arrow_cannot_write_is_refused_by_name(source: ParquetInput) -> None:
    odd: Any = source.schema.append(pa.field("span", pa.month_day_nano_interval()))
    with pytest.raises(UnsupportedColumnError, match="The column 'span' is of the type month_day_nano_interval"):
        OutputFormat.of(replace(source, schema=odd), generation_columns(), "")
