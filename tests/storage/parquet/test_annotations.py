from __future__ import annotations

import contextlib
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.storage.parquet.annotations import (
    Annotation,
    Place,
    annotate_file,
    annotated,
    footer_of,
    may_need_annotations,
    read_annotations,
    unsorted_leaves,
)

ENUM = Annotation((b"\x0c", b""), b"\x08", b"\x4c\x00\x00")  # of a BYTE_ARRAY
INTERVAL = Annotation((b"\x0e", b"\x18"), b"\x2a", b"")  # of a FIXED_LEN_BYTE_ARRAY(12)


def leaf(column: str, place: int = 0, number: int = 0) -> Place:
    return Place(column, place, place, True, number)


def written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def logical(content: bytes) -> dict[str, str]:
    schema = pq.ParquetFile(pa.BufferReader(content)).schema
    columns = [schema.column(place) for place in range(len(schema))]
    return {column.path: column.converted_type for column in columns}


def duckdb_file(path: Path, **columns: str) -> bytes:
    selected = ", ".join(f"{value} as {name}" for name, value in columns.items())
    duckdb.execute(f"copy (select {selected}) to '{path}' (format parquet, geoparquet_version 'NONE')")
    return path.read_bytes()


def test_what_arrow_does_not_keep_is_found_whichever_group_it_lies_in(tmp_path: Path) -> None:
    content = duckdb_file(
        tmp_path / "a.parquet",
        span="INTERVAL '1 month'",
        zoned="TIMETZ '10:00:00+02'",
        local="TIME '10:00:00'",
        variant="{'a': 1}::VARIANT",
        spans="[INTERVAL '1 day']",
        pair="{'text': 'a', 'span': INTERVAL '1 day'}",
        number="1",
        at="TIMESTAMP '2026-01-01'",
    )
    assert may_need_annotations(pq.ParquetFile(pa.BufferReader(content)).schema)
    found = {(place, annotation.name) for place, annotation in read_annotations(footer_of(content)).items()}
    assert found == {
        (leaf("span"), "INTERVAL"),
        (leaf("zoned"), "TIME (UTC)"),
        (Place("variant", 0, 3, is_leaf=False), "VARIANT"),
        (leaf("spans"), "INTERVAL"),
        (leaf("pair", 1), "INTERVAL"),
    }


def test_files_of_arrow_need_nothing() -> None:
    table = pa.table(
        {"text": ["a"], "at": pa.array([0], pa.timestamp("us", "UTC")), "time": pa.array([0], pa.time64("us"))}
    )
    content = written(table)
    assert not may_need_annotations(pq.ParquetFile(pa.BufferReader(content)).schema)
    assert read_annotations(footer_of(content)) == {}
    assert annotated(footer_of(content), {}) == (footer_of(content), set())


def test_annotations_are_put_where_they_belong(tmp_path: Path) -> None:
    binary = pa.array([b"a"])
    nested = pa.array([[{"one": b"a", "two": b"b"}]], pa.list_(pa.struct([("one", pa.binary()), ("two", pa.binary())])))
    table = pa.table([binary, nested, binary], names=["kind", "list", "kind"])
    path = tmp_path / "a.parquet"
    path.write_bytes(written(table))
    with path.open("r+b") as file:
        assert annotate_file(file, {leaf("kind", number=1): ENUM, leaf("list", 1): ENUM}) == set()
    content = path.read_bytes()
    schema = pq.ParquetFile(path).schema
    assert [schema.column(place).converted_type for place in range(4)] == ["NONE", "NONE", "ENUM", "ENUM"]
    assert read_annotations(footer_of(content)) == {leaf("kind", number=1): ENUM, leaf("list", 1): ENUM}
    assert pq.ParquetFile(path).read().columns == table.columns


def test_an_element_of_another_physical_type_is_left_as_it_is() -> None:
    content = written(pa.table({"kind": [1], "text": ["a"]}))
    wanted = {leaf("kind"): ENUM, leaf("missing"): ENUM, Place("text", 0, 0, is_leaf=False): ENUM}
    assert annotated(footer_of(content), wanted) == (footer_of(content), set(wanted))


def test_many_columns_have_a_long_list(tmp_path: Path) -> None:
    table = pa.table({f"column {number}": [b"a"] for number in range(200)})
    path = tmp_path / "a.parquet"
    path.write_bytes(written(table))
    with path.open("r+b") as file:
        annotate_file(file, {leaf("column 150"): ENUM})
    assert [name for name, kind in logical(path.read_bytes()).items() if kind == "ENUM"] == ["column 150"]


def test_types_without_an_order_are_told_apart(tmp_path: Path) -> None:
    content = duckdb_file(
        tmp_path / "a.parquet", id="uuid()", span="INTERVAL '1 month'", place="'POINT(1 2)'::GEOMETRY", js="'1'::JSON"
    )
    footer = footer_of(content)
    assert unsorted_leaves(footer, read_annotations(footer)) == {1, 2}


def test_what_is_no_file_is_refused() -> None:
    for content in (b"", b"PAR1", b"PAR1\xff\xff\xff\x7fPAR1"):
        with pytest.raises(ValueError, match="footer"):
            read_annotations(footer_of(content))


GOOD = footer_of(written(pa.table({"a": [b"x"], "b": [[1]]})))


@given(
    st.binary(max_size=200)
    | st.tuples(st.integers(0, len(GOOD)), st.binary(max_size=4)).map(
        lambda cut: GOOD[: cut[0]] + cut[1] + GOOD[cut[0] + len(cut[1]) :]
    )
)
def test_whatever_the_bytes_say_it_ends_with_an_answer_or_a_refusal(footer: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_annotations(footer)


def test_a_structure_nested_without_end_is_refused() -> None:
    for deep in (b"\x1c" * 100_000, b"\x19" + b"\x19" * 100_000):
        with pytest.raises(ValueError, match="footer"):
            read_annotations(deep)
