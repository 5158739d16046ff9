"""Every value and logical type of every input column reads back equal from the output: by DuckDB, and by Polars."""

from __future__ import annotations

import datetime
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from airflow_mullama.manifest import PartitionManifest, Seconds
from airflow_mullama.rows import generation_columns
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.parquet.annotations import Annotation, Place, annotate_file
from airflow_mullama.storage.parquet.input import ParquetInput, open_input, with_exact_timestamps
from airflow_mullama.storage.parquet.output import FileOutput
from airflow_mullama.storage.parquet.vector_columns import keeps_null_vectors
from airflow_mullama.storage.partition_output import NewOutput
from airflow_mullama.storage.staging.unpublished import new_name

COLUMNS = generation_columns()


def outcomes(rows: int) -> pa.Table:
    values: dict[str, Any] = {"status": "success", "attempts": 1}
    arrays = [pa.array([values.get(field.name)] * rows, field.type) for field in COLUMNS.fields]
    return pa.table(
        [pa.array(range(rows), pa.int64()), *arrays], schema=pa.schema([("row", pa.int64()), *COLUMNS.fields])
    )


def written(sources: Sequence[Path], output: Path) -> Path:
    """An output of these files, as a run writes it."""
    source: ParquetInput = with_exact_timestamps(open_input([local_location(str(path)) for path in sources]))
    manifest = PartitionManifest(
        task="generate",
        input_path="in",
        output_path="out",
        engine="echo",
        model="echo",
        model_sha256="",
        fingerprint="",
        seconds=Seconds(),
        bytes_in=0,
        bytes_out=0,
        started_at="",
        ended_at="",
        status_counts={"success": source.rows},
    )
    FileOutput(local_location(str(output))).write(
        NewOutput(
            source=source,
            chunks=iter([outcomes(source.rows)] if source.rows else []),
            columns=COLUMNS,
            output_prefix="mullama_",
            temporary=local_location(str(output.parent / new_name())),
            manifest=lambda: manifest,
            check_stopped=lambda: None,
            replaces=None,
        )
    )
    return output


def duckdb_reads(paths: Sequence[Path]) -> tuple[list[tuple[str, str]], list[tuple[str, ...]]]:
    """Names and types of the input's columns, and their values as texts."""
    files = ", ".join(f"'{path}'" for path in paths)
    described = duckdb.sql(f"describe select * from read_parquet([{files}])").fetchall()
    columns = [(row[0], row[1]) for row in described if not row[0].startswith("mullama_")]
    selected = ", ".join(f'"{name}"::varchar' for name, _ in columns)
    return columns, duckdb.sql(f"select {selected} from read_parquet([{files}])").fetchall()


def polars_reads(paths: Sequence[Path]) -> pl.DataFrame:
    frames = [pl.read_parquet(path) for path in paths]
    # Files have dictionaries of their own; what counts are the values.
    frames = [frame.with_columns(pl.col(pl.Categorical).cast(pl.String)) for frame in frames]
    return pl.concat(frames).select(pl.exclude("^mullama_.*$"))


def assert_unchanged(sources: Sequence[Path], output: Path) -> None:
    assert duckdb_reads([output]) == duckdb_reads(sources)
    assert_frame_equal(polars_reads([output]), polars_reads(sources))


@pytest.fixture
def folder() -> Iterator[Any]:
    """A folder for each example."""
    made: list[Path] = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="columns-")))
        return made[-1]

    yield make
    for path in made:
        shutil.rmtree(path)


# --- what Arrow writes ------------------------------------------------------------------------------------------------

moments = st.datetimes(datetime.datetime.fromisoformat("0001-01-01"), datetime.datetime.fromisoformat("9999-12-31"))
near = st.integers(-(2**62), 2**62)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
dates = st.dates()
short = st.decimals(-99999, 99999, places=2)


def integers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)


entries = st.lists(st.tuples(words, st.integers(0, 9)), max_size=2, unique_by=lambda entry: entry[0])

KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    **{f"int{bits}": (getattr(pa, f"int{bits}")(), integers(bits, True)) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (getattr(pa, f"uint{bits}")(), integers(bits, False)) for bits in (8, 16, 32, 64)},
    "bool": (pa.bool_(), st.booleans()),
    "float32": (pa.float32(), st.floats(width=32)),
    "float64": (pa.float64(), st.floats()),
    "string": (pa.string(), words),
    "large_string": (pa.large_string(), words),
    "binary": (pa.binary(), st.binary(max_size=8)),
    "fixed": (pa.binary(3), st.binary(min_size=3, max_size=3)),
    "decimal9": (pa.decimal128(9, 2), short),
    "decimal38": (pa.decimal128(38, 10), st.decimals(-(10**20), 10**20, places=10)),
    "date": (pa.date32(), dates),
    "time_ms": (pa.time32("ms"), st.integers(0, 86_399_999)),
    "time_us": (pa.time64("us"), st.integers(0, 86_399_999_999)),
    "time_ns": (pa.time64("ns"), st.integers(0, 86_399_999_999_999)),
    "timestamp_ms": (pa.timestamp("ms"), moments),
    "timestamp_us": (pa.timestamp("us"), moments),
    "timestamp_ns": (pa.timestamp("ns"), near),
    "timestamp_utc": (pa.timestamp("us", "UTC"), moments),
    "duration": (pa.duration("us"), st.integers(-(10**15), 10**15)),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), words),
    "list": (pa.list_(pa.int16()), st.lists(st.none() | integers(16, True), max_size=3)),
    "large_list": (pa.large_list(pa.string()), st.lists(words, max_size=3)),
    "fixed_list": (pa.list_(pa.float32(), 2), st.lists(st.floats(width=32), min_size=2, max_size=2)),
    "map": (pa.map_(pa.string(), pa.int32()), entries),
    "struct": (
        pa.struct([("when", pa.timestamp("us", "UTC")), ("what", pa.list_(pa.decimal128(9, 2)))]),
        st.fixed_dictionaries({"when": st.none() | moments, "what": st.lists(short, max_size=2)}),
    ),
}


@st.composite
def tables(draw: st.DrawFn) -> list[pa.Table]:
    """One or two files of a partition."""
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=5, unique=True))
    # Older versions of Arrow do not read null lists of fixed size.
    whole = {kind: draw(st.booleans()) or (kind == "fixed_list" and not keeps_null_vectors()) for kind in kinds}

    def table(rows: int) -> pa.Table:
        arrays, fields = [], []
        for kind in kinds:
            data_type, values = KINDS[kind]
            drawn = st.lists(values if whole[kind] else st.none() | values, min_size=rows, max_size=rows)
            arrays.append(pa.array(draw(drawn), data_type))
            fields.append(pa.field(kind, data_type, nullable=not whole[kind]))
        return pa.table(arrays, schema=pa.schema(fields))

    return [table(draw(st.integers(0, 5))) for _ in range(draw(st.integers(1, 2)))]


@settings(max_examples=60)
@given(drawn=tables(), row_group_rows=st.sampled_from([1, 3, 1000]))
def test_columns_of_arrow(folder: Any, drawn: list[pa.Table], row_group_rows: int) -> None:
    place = folder()
    sources = [place / f"{number}.parquet" for number in range(len(drawn))]
    for table, path in zip(drawn, sources, strict=True):
        pq.write_table(table, path, row_group_size=row_group_rows, store_schema=row_group_rows != 3)
    assert_unchanged(sources, written(sources, place / "out.parquet"))


@settings(max_examples=30)
@given(values=st.lists(st.none() | moments, min_size=1, max_size=8))
def test_int96_timestamps_of_any_year(folder: Any, values: list[datetime.datetime | None]) -> None:
    place = folder()
    moment = pa.array(values, pa.timestamp("us"))
    table = pa.table({"moment": moment, "inside": pa.StructArray.from_arrays([moment], ["of"])})
    pq.write_table(table, place / "a.parquet", use_deprecated_int96_timestamps=True)
    assert_unchanged([place / "a.parquet"], written([place / "a.parquet"], place / "out.parquet"))


# --- what Arrow has no type for ---------------------------------------------------------------------------------------

OF_DUCKDB = {
    "span": "case when i % 3 = 0 then null else to_months(i::int) + to_days(2) end",
    "spans": "[to_days(i::int), null]",
    "zoned": "('10:00:00.5+0' || (i % 9))::TIMETZ",
    "local": "'10:00:00'::TIME",
    "id": "case when i % 4 = 0 then null else md5(i::varchar)::UUID end",
    "document": "('{\"a\": ' || i || '}')::JSON",
    "variant": "{'a': i, 'b': [i]}::VARIANT",
    "place": "('POINT(1 ' || i || ')')::GEOMETRY",
    "kind": "(['low', 'high'])[1 + i % 2]::ENUM('low', 'high')",
    "bits": "i::UTINYINT::BIT",
    "huge": "i::HUGEINT",
    "tiny": "i::UTINYINT",
    "fine": "'2026-01-01 00:00:00.123456789'::TIMESTAMP_NS",
    "pair": "{'span': to_days(i::int), 'text': 'a'}",
    "lookup": "MAP {'k': to_days(i::int)}",
}


@pytest.mark.parametrize("several_files", [True, False])
def test_columns_of_duckdb(tmp_path: Path, several_files: bool) -> None:
    selected = ", ".join(f"{expression} as {name}" for name, expression in OF_DUCKDB.items())
    sources = [tmp_path / f"{number}.parquet" for number in range(2 if several_files else 1)]
    for number, path in enumerate(sources):
        query = f"select {selected} from range({100 * number}, {100 * number + 100}) as t(i)"
        duckdb.execute(f"copy ({query}) to '{path}' (format parquet, row_group_size 50, geoparquet_version 'NONE')")
    output = written(sources, tmp_path / "out.parquet")
    before, after = duckdb_reads(sources), duckdb_reads([output])
    assert after == before
    kinds = {kind for _, kind in after[0]}
    assert kinds >= {"INTERVAL", "TIME WITH TIME ZONE", "VARIANT", "GEOMETRY", "UUID", "JSON"}


def test_a_filter_over_a_type_whose_bytes_have_no_order_finds_the_same_rows(tmp_path: Path) -> None:
    source = tmp_path / "a.parquet"
    query = "select to_months((i * 37 % 100)::int) as span from range(100) as t(i)"
    duckdb.execute(f"copy ({query}) to '{source}' (format parquet)")
    output = written([source], tmp_path / "out.parquet")
    assert not pq.read_metadata(output).row_group(0).column(0).is_stats_set
    counted = {
        tuple(duckdb.sql(f"select count(*) from '{path}' where span > to_months(50)").fetchall())
        for path in (source, output)
    }
    assert counted == {((49,),)}


def test_a_column_that_avro_wrote_as_an_enum_stays_a_text_for_duckdb(tmp_path: Path) -> None:
    source = tmp_path / "a.parquet"
    pq.write_table(pa.table({"kind": [b"low", b"high", None], "other": [b"\xff", b"", b"a"]}), source)
    with source.open("r+b") as file:
        annotate_file(file, {Place("kind", 0, 0, is_leaf=True): Annotation((b"\x0c", b""), b"\x08", b"\x4c\x00\x00")})
    assert duckdb_reads([source])[0] == [("kind", "VARCHAR"), ("other", "BLOB")]
    assert_unchanged([source], written([source], tmp_path / "out.parquet"))
