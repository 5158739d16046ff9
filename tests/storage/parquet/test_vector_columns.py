from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import run_partition
from airflow_mullama.rows import document_columns
from airflow_mullama.storage.parquet import vector_columns
from airflow_mullama.storage.parquet.vector_columns import from_stored, stored_type, to_stored

VECTORS = [[1.0, 2.0], None, None, [3.0, 4.0], [5.0, -6.0]]


@pytest.fixture(params=[True, False], ids=["kept", "as lists"])
def keeps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Arrow with and without null lists of fixed size in Parquet."""
    if request.param and not vector_columns.keeps_null_vectors():
        pytest.skip("this Arrow cannot")
    monkeypatch.setattr(vector_columns, "keeps_null_vectors", lambda: request.param)
    return bool(request.param)


def test_what_arrow_can_do_is_found_out_by_version() -> None:
    assert vector_columns.keeps_null_vectors() == (int(pa.__version__.split(".")[0]) >= 26)


@pytest.mark.parametrize("numbers", [pa.float32(), pa.float16()])
def test_vectors_come_back_through_parquet(keeps: bool, tmp_path: Path, numbers: pa.DataType) -> None:
    kind = pa.list_(numbers, 2)
    whole = pa.chunked_array([pa.array(VECTORS, kind), pa.array([], kind), pa.array([None], kind)])
    for column in (whole, whole.slice(1), whole.slice(3, 1)):
        stored = to_stored(column)
        assert stored.type == stored_type(kind) == (kind if keeps else pa.list_(numbers))
        stored.validate(full=True)
        path = tmp_path / "vectors.parquet"
        pq.write_table(pa.table({"vector": stored}), path)
        read = pq.ParquetFile(path).read()["vector"]
        assert read.type == stored.type
        back = from_stored(read, kind)
        assert back.type == kind
        back.validate(full=True)
        assert back.to_pylist() == column.to_pylist()


def test_other_columns_stay_as_they_are(keeps: bool) -> None:
    column = pa.chunked_array([pa.array([["a"], None], pa.list_(pa.string()))])
    assert to_stored(column) is column
    assert from_stored(column, column.type) is column


def test_a_partition_with_null_vectors_is_written_repaired_and_reused(
    keeps: bool, tmp_path: Path, write_parquet: Callable[..., Path], echo_embed_job: Callable[..., Any]
) -> None:
    target = tmp_path / "out.parquet"
    source = write_parquet(tmp_path / "in.parquet", ["one", None, "three", "four"])
    job = echo_embed_job(options={"dimensions": 4}, max_error_ratio=1.0, max_retries=0)
    failing = echo_embed_job(options={"dimensions": 4, "faults": {"fail": [2]}}, max_error_ratio=1.0, max_retries=0)
    run_partition(failing, source, target, listeners=[])
    before = pq.ParquetFile(target).read()["embedding"]
    assert before.type == stored_type(pa.list_(pa.float32(), 4))
    assert [vector is None for vector in before.to_pylist()] == [False, True, True, False]
    assert run_partition(job, source, target, listeners=[]).repaired_rows == 1
    mended = pq.ParquetFile(target).read()["embedding"].to_pylist()
    assert mended[0] == before.to_pylist()[0]
    write_parquet(source, ["zero", "one", None, "three", "four"])
    assert run_partition(job, source, target, listeners=[]).reused_rows == 3
    assert pq.ParquetFile(target).read()["embedding"].to_pylist()[1:] == mended


def test_vectors_inside_of_lists_of_structs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = document_columns(2, pa.float32(), pooled=False).schema.field("chunks").type
    chunk = {"start": 0, "end": 4, "tokens": 3, "embedding": [1.0, 2.0]}
    rows = [[chunk, {**chunk, "start": 4}], None, [], [{**chunk, "embedding": [3.0, 4.0]}]]
    column = pa.chunked_array([pa.array(rows, kind), pa.array(rows, kind).slice(1)])
    for keeps in (True, False):
        monkeypatch.setattr(vector_columns, "keeps_null_vectors", lambda keeps=keeps: keeps)
        stored = vector_columns.to_stored(column)
        assert stored.type == vector_columns.stored_type(kind)
        assert vector_columns.may_be_stored_as(stored.type, kind)
        sink = pa.BufferOutputStream()
        if not keeps:
            pq.write_table(pa.table({"chunks": stored}), sink)
            stored = pq.read_table(pa.BufferReader(sink.getvalue()))["chunks"]
        assert vector_columns.from_stored(stored, kind).to_pylist() == column.to_pylist()
        assert vector_columns.from_stored(stored, kind).type == kind
    assert not vector_columns.may_be_stored_as(pa.list_(pa.float32()), kind)
