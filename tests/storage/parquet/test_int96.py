from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import run_partition
from airflow_mullama.errors import UnsupportedColumnError
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.parquet.input import ParquetInput, open_input, with_exact_timestamps

SHORT, FOREVER = map(datetime.datetime.fromisoformat, ("2026-01-01T12:30:15.123456", "9999-12-31T00:00:00"))
DIGITS = np.datetime64("2026-01-01T12:30:15.123456789", "ns")
# Around the borders of what nanoseconds can count.
FAR = [*map(datetime.datetime.fromisoformat, ("0001-01-01", "1677-09-21", "2262-04-12")), FOREVER]


def write(path: Path, **columns: pa.Array) -> Path:
    texts = pa.array([str(row) for row in range(len(next(iter(columns.values()))))])
    pq.write_table(pa.table({"text": texts, **columns}), path, use_deprecated_int96_timestamps=True)
    return path


def opened(*paths: Path) -> ParquetInput:
    return with_exact_timestamps(open_input([local_location(str(path)) for path in paths]))


def microseconds(*values: datetime.datetime | None) -> pa.Array:
    return pa.array(values, pa.timestamp("us"))


@pytest.mark.parametrize("store_schema", [True, False])
def test_dates_that_nanoseconds_cannot_count_are_read(tmp_path: Path, store_schema: bool) -> None:
    values = microseconds(SHORT, None, *FAR)
    pq.write_table(
        pa.table({"at": values}),
        tmp_path / "a.parquet",
        use_deprecated_int96_timestamps=True,
        store_schema=store_schema,
    )
    (batch,) = opened(tmp_path / "a.parquet").batches()
    assert batch.column("at").equals(values)


def test_digits_below_the_microsecond_are_kept(tmp_path: Path) -> None:
    values = pa.array([DIGITS, None])
    plain = write(tmp_path / "a.parquet", at=microseconds(SHORT))
    source = opened(plain, write(tmp_path / "b.parquet", at=values))
    assert source.schema.field("at").type == pa.timestamp("ns")
    assert pa.concat_tables(pa.table(batch.select(["at"])) for batch in source.batches()).num_rows == 3
    *_, last = source.batches(["at"])
    assert last.column("at").equals(values)


def test_digits_and_far_dates_together_are_refused_by_name(tmp_path: Path) -> None:
    files = write(tmp_path / "a.parquet", at=microseconds(*FAR)), write(tmp_path / "b.parquet", at=pa.array([DIGITS]))
    with pytest.raises(UnsupportedColumnError, match="'at' have digits"):
        opened(*files)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.timestamp("us")),
        pa.struct([("x", pa.timestamp("us")), ("n", pa.int64())]),
        pa.map_(pa.string(), pa.timestamp("us")),
        pa.list_(pa.struct([("x", pa.timestamp("us"))])),
    ],
)
def test_they_are_found_inside_of_other_types(tmp_path: Path, kind: pa.DataType) -> None:
    def inside(value: datetime.datetime | None) -> object:
        if pa.types.is_map(kind):
            return [("k", value)]
        if pa.types.is_struct(kind):
            return {"x": value, "n": 1}
        return [{"x": value}] if pa.types.is_struct(kind.value_type) else [value, None]

    values = pa.array([inside(SHORT), None, inside(FOREVER)], kind)
    (batch,) = opened(write(tmp_path / "a.parquet", at=values)).batches()
    assert batch.column("at").equals(values)


def dates_in(path: Path) -> list[tuple[str, str]]:
    return list(duckdb.sql(f"""select typeof("at"), "at"::varchar from '{path}'""").fetchall())


def physical_types(path: Path) -> dict[str, str]:
    schema = pq.read_metadata(path).schema
    columns = [schema.column(place) for place in range(len(schema))]
    return {column.path: column.physical_type for column in columns}


def test_an_output_and_its_prompts_have_the_dates_of_the_input(
    tmp_path: Path, echo_job: Callable[..., GenerateJob]
) -> None:
    source, output = write(tmp_path / "a.parquet", at=microseconds(SHORT, *FAR)), tmp_path / "out.parquet"
    run_partition(echo_job(prompt_template="{text} {at}"), source, output)
    assert dates_in(output) == dates_in(source)
    assert physical_types(output)["at"] == "INT96"
    asked = pq.ParquetFile(output).read(["response"])["response"].to_pylist()
    assert asked == [f"{row} {at.isoformat()}" for row, at in enumerate([SHORT, *FAR])]


def test_beside_other_timestamps_they_become_plain_ones_of_the_same_values(
    tmp_path: Path, echo_job: Callable[..., GenerateJob]
) -> None:
    schema = {"type": "object", "properties": {"at": {"type": "string", "format": "date-time"}}, "required": ["at"]}
    source, output = write(tmp_path / "a.parquet", at=microseconds(SHORT, *FAR)), tmp_path / "out.parquet"
    run_partition(echo_job(output_schema=schema, output_prefix="new_", max_error_ratio=1.0), source, output)
    assert dates_in(output) == dates_in(source)
    assert physical_types(output)["at"] == physical_types(output)["new_at"] == "INT64"


def test_a_changed_input_still_finds_its_answers(tmp_path: Path, echo_job: Callable[..., GenerateJob]) -> None:
    source, output = tmp_path / "a.parquet", tmp_path / "out.parquet"
    write(source, at=pa.array([DIGITS, DIGITS + 1]))
    run_partition(echo_job(prompt_template="{at}"), source, output)
    write(source, at=pa.array([DIGITS + 1, DIGITS, DIGITS + 2]))
    assert run_partition(echo_job(prompt_template="{at}"), source, output).reused_rows == 2
