"""Files of one partition whose schemas drifted: the output has the values that DuckDB reads by the names of columns."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.parquet.input import open_input, with_exact_timestamps
from tests.storage.test_columns_unchanged import duckdb_reads, folder, written

__all__ = ["folder"]

words = st.text("ab é\n", max_size=4)
moments = st.datetimes(datetime.datetime.fromisoformat("1700-01-01"), datetime.datetime.fromisoformat("2250-01-01"))

# What one column may be in files of different days, and values that each of these types holds.
FAMILIES: dict[str, tuple[list[pa.DataType], st.SearchStrategy[Any]]] = {
    "whole": (
        [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.decimal128(12, 2)],
        st.integers(0, 127),
    ),
    "number": ([pa.float32(), pa.float64(), pa.int16(), pa.int32()], st.integers(-999, 999)),
    "money": ([pa.decimal128(9, 2), pa.decimal128(9, 4), pa.decimal128(30, 3)], st.decimals(-999, 999, places=2)),
    "word": ([pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], words),
    "bytes": ([pa.binary(), pa.large_binary(), pa.binary(2)], st.binary(min_size=2, max_size=2)),
    "moment": (
        [pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns")],
        moments.map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)),
    ),
    "day": ([pa.date32(), pa.date64()], st.dates()),
    "flag": ([pa.bool_()], st.booleans()),
    "list": ([pa.list_(pa.int8()), pa.large_list(pa.int64()), pa.list_(pa.null())], st.just([]) | st.just([None])),
    "numbers": ([pa.list_(pa.int8()), pa.large_list(pa.int64())], st.lists(st.none() | st.integers(0, 9), max_size=3)),
    "map": (
        [pa.map_(pa.string(), pa.int32()), pa.map_(pa.string(), pa.int64())],
        st.dictionaries(st.sampled_from("xyz"), st.integers(0, 9), max_size=2).map(lambda of: list(of.items())),
    ),
    "pair": (
        [
            pa.struct([("a", pa.int32()), ("b", pa.string())]),
            pa.struct([("a", pa.int64()), ("b", pa.large_string())]),
            pa.struct([("b", pa.string()), ("a", pa.int16())]),
        ],
        st.fixed_dictionaries({"a": st.none() | st.integers(0, 9), "b": st.none() | words}),
    ),
}


@st.composite
def drifts(draw: st.DrawFn) -> list[pa.Table]:
    """Files that have some of the columns, in any order, each of one of its types."""
    chosen = draw(st.lists(st.sampled_from(sorted(FAMILIES)), min_size=1, max_size=5, unique=True))
    tables = []
    for number in range(draw(st.integers(2, 3))):
        names = draw(st.permutations(chosen))
        rows = draw(st.integers(0, 3))
        fields, arrays = [pa.field("id", pa.int64())], [pa.array([number] * rows, pa.int64())]
        for name in names[draw(st.integers(0, len(names) - 1)) :]:
            types, values = FAMILIES[name]
            kind = draw(st.sampled_from(types))
            required = draw(st.booleans())
            drawn = draw(st.lists(values if required else st.none() | values, min_size=rows, max_size=rows))
            if not required and draw(st.integers(0, 3)) == 0:
                kind, drawn = pa.null(), [None] * rows
            fields.append(pa.field(name, kind, nullable=not required))
            arrays.append(
                pa.array(
                    [Decimal(value) if pa.types.is_decimal(kind) and value is not None else value for value in drawn],
                    kind,
                )
            )
        tables.append(pa.table(arrays, schema=pa.schema(fields)))
    return tables


def rows_of(query: str, names: list[str]) -> list[tuple[Any, ...]]:
    return duckdb.sql(f"select {', '.join(names)} from {query}").fetchall()


@settings(max_examples=60)
@given(tables=drifts(), row_group_rows=st.sampled_from([1, 1000]))
def test_the_values_are_those_that_duckdb_reads_by_name(
    folder: Any, tables: list[pa.Table], row_group_rows: int
) -> None:
    place = folder()
    sources = [place / f"{number}.parquet" for number in range(len(tables))]
    for table, path in zip(tables, sources, strict=True):
        pq.write_table(table, path, row_group_size=row_group_rows, store_schema=row_group_rows == 1)
    names = list(dict.fromkeys(name for table in tables for name in table.column_names))
    output = written(sources, place / "out.parquet")
    assert pq.read_schema(output).names[: len(names)] == names
    listed = ", ".join(f"'{path}'" for path in sources)
    wanted = rows_of(f"read_parquet([{listed}], union_by_name=true)", names)
    assert rows_of(f"'{output}'", names) == wanted


def test_logical_types_that_arrow_does_not_know_stay_what_they_are(tmp_path: Path) -> None:
    sources = [tmp_path / f"{number}.parquet" for number in range(2)]
    selected = [
        "1::int as n, to_days(7) as span, {'a': 'x', 'span': to_days(1)} as pair, '10:00:00+00'::TIMETZ as at",
        "{'more': 1.5, 'span': to_days(2), 'a': 'y'} as pair, '11:00:00+00'::TIMETZ as at, [to_days(3)] as spans",
    ]
    for path, columns in zip(sources, selected, strict=True):
        duckdb.execute(f"copy (select {columns}) to '{path}' (format parquet, geoparquet_version 'NONE')")
    columns, rows = duckdb_reads([written(sources, tmp_path / "out.parquet")])
    assert dict(columns) == {
        "n": "INTEGER",
        "span": "INTERVAL",
        "pair": "STRUCT(a VARCHAR, span INTERVAL, more DECIMAL(2,1))",
        "at": "TIME WITH TIME ZONE",
        "spans": "INTERVAL[]",
    }
    assert rows == [
        ("1", "7 days", "{'a': x, 'span': 1 day, 'more': NULL}", "10:00:00+00", None),
        (None, None, "{'a': y, 'span': 2 days, 'more': 1.5}", "11:00:00+00", "[3 days]"),
    ]


@pytest.mark.parametrize("last_digit", [0, 7])
def test_int96_and_newer_timestamps_are_one_column(tmp_path: Path, last_digit: int) -> None:
    moments = [pa.array([value], pa.timestamp("ns")) for value in (1_000_000_000 + last_digit, 2_000_000_000)]
    paths = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    pq.write_table(pa.table({"at": moments[0]}), paths[0], use_deprecated_int96_timestamps=True)
    pq.write_table(pa.table({"at": moments[1].cast(pa.timestamp("ms"))}), paths[1])
    source = with_exact_timestamps(opened := open_input([local_location(str(path)) for path in paths]))
    assert source.identity == opened.identity
    output = pq.ParquetFile(written(paths, tmp_path / "out.parquet")).read(["at"])
    assert output.column("at").cast(pa.timestamp("ns")).combine_chunks() == pa.concat_arrays(moments)


def test_pandas_reads_what_its_own_files_become(tmp_path: Path) -> None:
    frames = [
        pd.DataFrame({"number": [1], "word": ["a"], "price": [Decimal("1.50")]}, index=pd.Index(["x"], name="key")),
        pd.DataFrame(
            {"word": ["b"], "number": [2.5], "price": [Decimal("1.505")], "more": [7]},
            index=pd.Index(["y"], name="key"),
        ),
    ]
    frames[0]["number"] = frames[0]["number"].astype("int32")
    for number, frame in enumerate(frames):
        frame.to_parquet(tmp_path / f"{number}.parquet")
    output = written([tmp_path / "0.parquet", tmp_path / "1.parquet"], tmp_path / "out.parquet")
    read = pd.read_parquet(output)
    assert read.index.tolist() == ["x", "y"]
    assert read["number"].tolist() == [1, 2.5]
    assert read["price"].tolist() == [Decimal("1.500"), Decimal("1.505")]
    assert read["more"].isna().tolist() == [True, False]
    assert read["mullama_status"].tolist() == ["success", "success"]
    assert pl.read_parquet(output)["word"].to_list() == ["a", "b"]


@pytest.mark.parametrize("statistics", [True, False])
def test_a_moment_that_the_finer_unit_cannot_count_is_refused_by_name(tmp_path: Path, statistics: bool) -> None:
    far = pa.table({"at": pa.array([datetime.datetime.fromisoformat("9999-12-31")], pa.timestamp("ms"))})
    pq.write_table(far, tmp_path / "0.parquet", write_statistics=statistics)
    pq.write_table(pa.table({"at": pa.array([1], pa.timestamp("ns"))}), tmp_path / "1.parquet")
    locations = [local_location(str(tmp_path / f"{number}.parquet")) for number in range(2)]
    sentence = r"0\.parquet', column 'at' is timestamp\[ms\], and with the other files.*would be timestamp\[ns\]"
    if statistics:  # then it is known before a row is read
        with pytest.raises(InputUnreadableError, match=sentence):
            open_input(locations)
    else:
        source = open_input(locations)
        with pytest.raises(InputUnreadableError, match=sentence):
            list(source.batches())


def test_only_wanted_columns_are_read_of_files_that_have_them(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "word": ["a"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"id": [2, 3]}), tmp_path / "1.parquet")
    source = open_input([local_location(str(tmp_path / f"{number}.parquet")) for number in range(2)])
    batches = list(source.batches(["word"], first_row=2))
    assert [batch.to_pydict() for batch in batches] == [{"word": [None]}]
    assert [batch.num_rows for batch in source.batches([])] == [1, 2]
