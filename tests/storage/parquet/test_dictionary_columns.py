from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import run_partition
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.storage.parquet.dictionary_columns import with_wide_index

NARROW, WIDE = pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.string())


@pytest.mark.parametrize(
    ("kind", "wide"),
    [
        (NARROW, WIDE),
        (pa.dictionary(pa.uint16(), pa.int64(), ordered=True), pa.dictionary(pa.int32(), pa.int64(), ordered=True)),
        (pa.dictionary(pa.uint32(), pa.string()), pa.dictionary(pa.uint32(), pa.string())),
        (pa.dictionary(pa.int64(), pa.string()), pa.dictionary(pa.int64(), pa.string())),
        (pa.list_(NARROW), pa.list_(WIDE)),
        (pa.large_list(NARROW), pa.large_list(WIDE)),
        (pa.list_(NARROW, 2), pa.list_(WIDE, 2)),
        (pa.map_(pa.string(), NARROW), pa.map_(pa.string(), WIDE)),
        (pa.struct([pa.field("a", NARROW, nullable=False)]), pa.struct([pa.field("a", WIDE, nullable=False)])),
        (pa.string(), pa.string()),
    ],
)
def test_an_index_of_a_byte_or_two_is_widened_at_any_depth(kind: pa.DataType, wide: pa.DataType) -> None:
    assert with_wide_index(kind) == wide


def day(letter: str) -> pa.Table:
    names = [f"{letter}{number}" for number in range(100)]
    return pa.table(
        {
            "text": names,
            "shop": pa.array(names, NARROW),
            "inside": pa.array([{"of": name} for name in names], pa.struct([("of", NARROW)])),
        }
    )


@pytest.mark.parametrize("several_files", [True, False])
def test_an_output_with_many_narrow_dictionaries_is_read_by_everybody(
    tmp_path: Path, echo_job: Callable[..., GenerateJob], several_files: bool
) -> None:
    days = [day(letter) for letter in "abc"]
    source, output = tmp_path / "in", tmp_path / "out.parquet"
    source.mkdir()
    if several_files:
        for number, table in enumerate(days):
            pq.write_table(table, source / f"{number}.parquet")
    else:
        with pq.ParquetWriter(source / "one.parquet", days[0].schema) as writer:
            for table in days:
                writer.write_table(table)
    run_partition(echo_job(), source, output)
    wanted = [name for table in days for name in table["text"].to_pylist()]
    assert pq.read_table(output, columns=["shop"])["shop"].to_pylist() == wanted
    assert pd.read_parquet(output)["shop"].astype(str).tolist() == wanted
    assert pl.read_parquet(output)["shop"].cast(pl.String).to_list() == wanted
    assert [row[0] for row in duckdb.sql(f"select shop from '{output}'").fetchall()] == wanted
    assert [row[0] for row in duckdb.sql(f"select inside.of from '{output}'").fetchall()] == wanted
