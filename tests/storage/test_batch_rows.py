from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage import batch_rows
from airflow_mullama.storage.batch_rows import BATCH_ROWS
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.parquet import stream as parquet_stream
from airflow_mullama.storage.parquet.input import open_input

BOUND = 64 << 10


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_rows, "READ_BATCH_BYTES", BOUND)


def batches(path: Path, table: pa.Table, columns: list[str] | None = None, **options: Any) -> list[pa.RecordBatch]:
    """The table, written and read; nothing may get lost."""
    pq.write_table(table, path, **options)
    read = list(open_input([local_location(str(path))]).batches(columns))
    assert pa.Table.from_batches(read, table.select(columns or table.column_names).schema).equals(
        table.select(columns or table.column_names)
    )
    return read


def column_of(kind: str, weights: list[int]) -> pa.Array:
    if kind == "text":
        return pa.array([f"{row:06}" + "x" * weight for row, weight in enumerate(weights)])
    if kind == "struct":
        return pa.array([{"bytes": bytes(weight), "path": "a"} for weight in weights])
    if kind == "numbers":
        return pa.array([[row] * (weight // 8) for row, weight in enumerate(weights)], pa.list_(pa.int64()))
    return pa.array([["x" * (weight // 4)] * 4 for weight in weights])


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    kind=st.sampled_from(["text", "struct", "numbers", "texts"]),
    runs=st.lists(st.tuples(st.integers(1, 60), st.sampled_from([10, 300, 5_000, 40_000])), min_size=1, max_size=6),
    version=st.sampled_from(["1.0", "2.0"]),
    dictionary=st.booleans(),
)
def test_a_batch_is_light_wherever_the_heavy_rows_are(
    tmp_path: Path, kind: str, runs: list[tuple[int, int]], version: str, dictionary: bool
) -> None:
    weights = [weight for count, weight in runs for _ in range(count)]
    table = pa.table({"id": range(len(weights)), "heavy": column_of(kind, weights)})
    read = batches(
        tmp_path / "a.parquet",
        table,
        data_page_version=version,
        use_dictionary=dictionary,
        data_page_size=1_000,
        write_batch_size=4,
    )
    # Of repeated values a page of version 1 does not say how many rows they belong to.
    bound = 4 * BOUND if kind in ("numbers", "texts") and version == "1.0" else BOUND
    assert max(batch.nbytes for batch in read if batch.num_rows > 1) <= bound if len(read) < len(weights) else True


@pytest.mark.parametrize("rows", [10, 3 * BATCH_ROWS])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_small_file_does_not_unpack_to_a_heavy_batch(tmp_path: Path, rows: int, compression: str) -> None:
    """One long text in a dictionary of many, and each row names it."""
    texts = [f"short {number}" for number in range(2_000)] + ["x" * 20_000]
    heavy = pa.DictionaryArray.from_arrays(pa.array([2_000] * rows, pa.int32()), pa.array(texts)).cast(pa.string())
    read = batches(tmp_path / "a.parquet", pa.table({"heavy": heavy}), compression=compression)
    assert max(batch.nbytes for batch in read) <= BOUND
    assert (tmp_path / "a.parquet").stat().st_size < 100_000


def test_light_rows_are_read_by_the_thousand(tmp_path: Path) -> None:
    table = pa.table({"id": range(10_000), "flag": [True, False] * 5_000})
    assert max(batch.num_rows for batch in batches(tmp_path / "a.parquet", table, use_dictionary=False)) == BATCH_ROWS


def test_what_is_not_asked_for_does_not_count(tmp_path: Path) -> None:
    table = pa.table({"id": range(BATCH_ROWS), "heavy": ["x" * 5_000] * BATCH_ROWS})
    assert len(batches(tmp_path / "a.parquet", table, ["id"])) == 1


@pytest.mark.parametrize("footer_tells", [True, False])
def test_a_page_that_is_too_large_to_unpack_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, footer_tells: bool
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"heavy": ["x" * (2 << 20)]}), path, use_dictionary=False)
    if not footer_tells:  # as if it said less than the page
        monkeypatch.setattr(parquet_stream, "refuse_heavy_pages", lambda *_: None)
    monkeypatch.setattr(batch_rows, "LARGEST_PAGE_BYTES", 1 << 20)
    with pytest.raises(InputUnreadableError) as caught:
        list(open_input([local_location(str(path))]).batches())
    message = str(caught.value)
    assert f"{str(path)!r} cannot be read: its column 'heavy' has a page of 2 MiB" in message
    assert "1 MiB is the most; write it again with smaller pages" in message
    assert "\n" not in message
