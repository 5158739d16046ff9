from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import run_partition
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.storage.parquet.footer_notes import PANDAS_KEY, SPARK_KEY, output_notes, shared_notes

ADDED = [pa.field("response", pa.string()), pa.field("attempts", pa.int32(), nullable=False)]


def spark_note(**kinds: Any) -> bytes:
    fields = [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in kinds.items()]
    return json.dumps({"type": "struct", "fields": fields}).encode()


def schema(notes: dict[bytes, bytes], *names: str) -> pa.Schema:
    return pa.schema([(name, pa.int64()) for name in names], metadata=notes)


def test_spark_is_told_of_the_added_columns_and_keeps_its_own_types() -> None:
    note = spark_note(span="interval day to second", text="string")
    (key, kept) = next(iter(output_notes(schema({SPARK_KEY: note}, "span", "text"), ADDED).items()))
    assert key == SPARK_KEY
    told = {field["name"]: field["type"] for field in json.loads(kept)["fields"]}
    assert told == {"span": "interval day to second", "text": "string", "response": "string", "attempts": "integer"}


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (pa.list_(pa.float32(), 3), {"type": "array", "elementType": "float", "containsNull": True}),
        (pa.dictionary(pa.int32(), pa.string()), "string"),
        (pa.timestamp("us", "UTC"), "timestamp"),
        (pa.timestamp("ms"), "timestamp_ntz"),
        (pa.decimal128(9, 2), "decimal(9,2)"),
        (
            pa.struct([("a", pa.int64())]),
            {"type": "struct", "fields": [{"name": "a", "type": "long", "nullable": True, "metadata": {}}]},
        ),
    ],
)
def test_spark_is_told_the_type_of_each_kind_of_column(kind: pa.DataType, told: Any) -> None:
    notes = output_notes(schema({SPARK_KEY: spark_note(id="long")}, "id"), [pa.field("added", kind)])
    assert json.loads(notes[SPARK_KEY])["fields"][-1]["type"] == told


@pytest.mark.parametrize(
    ("note", "added"),
    [
        (spark_note(other="string"), ADDED),  # was not true of the input either
        (b"no JSON", ADDED),
        (b"[" * 100_000, ADDED),
        (spark_note(id="long"), [pa.field("embedding", pa.list_(pa.float16(), 3))]),  # Spark has no such type
        (spark_note(id="long"), [pa.field("when", pa.timestamp("ns"))]),
        (spark_note(id="long"), [pa.field("made", pa.struct([("half", pa.float16())]))]),
    ],
)
def test_a_note_of_spark_that_cannot_be_made_true_is_dropped(note: bytes, added: list[pa.Field]) -> None:
    assert output_notes(schema({SPARK_KEY: note}, "id"), added) == {}


def test_schemas_of_other_models_are_dropped_and_all_else_is_kept() -> None:
    kept = {b"geo": b"{}", b"org.apache.spark.version": b"4.1.0", b"owner": b"somebody"}
    stale = {b"parquet.avro.schema": b"{}", b"iceberg.schema": b"{}", b"airflow_mullama": b"{}", b"thrift.class": b"a"}
    assert output_notes(schema({**kept, **stale}, "id"), ADDED) == kept


@pytest.mark.parametrize("note", [b"no JSON", b"[]", b'{"columns": 5}', b'{"columns": [{}], "index_columns": []}'])
def test_a_note_of_pandas_that_is_none_is_dropped(note: bytes) -> None:
    assert output_notes(schema({PANDAS_KEY: note}, "id"), ADDED) == {}


def test_several_files_keep_what_they_all_say() -> None:
    both = {b"owner": b"somebody"}
    assert shared_notes([{**both, b"file": b"1"}, {**both, b"file": b"2"}, both]) == both


def pandas_note(frame: pd.DataFrame) -> dict[bytes, bytes]:
    return dict(pa.Schema.from_pandas(frame).metadata)


def test_of_several_files_ranges_of_row_numbers_are_dropped_and_stored_indexes_kept() -> None:
    first, second = pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [3]})
    assert json.loads(shared_notes([pandas_note(first), pandas_note(second)])[PANDAS_KEY])["index_columns"] == []
    notes = [pandas_note(frame.set_index(pd.Index(list("kl")[: len(frame)], name="key"))) for frame in (first, second)]
    assert json.loads(shared_notes(notes)[PANDAS_KEY])["index_columns"] == ["key"]


def test_of_several_files_a_column_that_pandas_had_in_two_types_is_left_undescribed() -> None:
    frames = [pd.DataFrame({"a": [1], "b": pd.array([1], kind)}) for kind in ("Int32", "Int64")]
    merged = json.loads(shared_notes([pandas_note(frame) for frame in frames])[PANDAS_KEY])
    assert [column["name"] for column in merged["columns"]] == ["a"]


@pytest.mark.parametrize("other", [{}, {PANDAS_KEY: b"{}"}])
def test_files_of_which_one_is_not_of_pandas_have_no_note_of_it(other: dict[bytes, bytes]) -> None:
    assert PANDAS_KEY not in shared_notes([pandas_note(pd.DataFrame({"a": [1]})), other])


FRAMES = {
    "numbers": pd.DataFrame({0: ["a", "b"], 1: ["c", "d"]}),
    "dates": pd.DataFrame([["a"]], columns=pd.DatetimeIndex(["2026-01-01"])),
    "zoned dates": pd.DataFrame([["a"]], columns=pd.DatetimeIndex(["2026-01-01"], tz="Europe/Berlin")),
    "pairs": pd.DataFrame([["a", "b"]], columns=pd.MultiIndex.from_tuples([("x", "text"), ("y", "z")])),
    "bytes": pd.DataFrame({b"text": ["a"]}),
    "named": pd.DataFrame({"text": ["a"]}).rename_axis("kind", axis=1),
    "range": pd.DataFrame({"text": ["a", "b"]}, index=pd.RangeIndex(5, 9, 2, name="id")),
    "stored": pd.DataFrame({"text": ["a", "b"]}, index=pd.Index(["k", "l"], name="key")),
    "nullable": pd.DataFrame({"text": ["a", "b"], "count": pd.array([1, None], "Int16")}),
    "category": pd.DataFrame({"text": ["a"], "shop": pd.Categorical(["x"])}),
}


@pytest.mark.parametrize("name", FRAMES)
def test_pandas_reads_an_output_of_its_own_file_with_index_and_types(
    tmp_path: Path, echo_job: Callable[..., GenerateJob], name: str
) -> None:
    frame = FRAMES[name]
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    frame.to_parquet(source)
    column = pq.read_schema(source).names[0]
    run_partition(echo_job(prompt_column=column), source, output)
    before, after = pd.read_parquet(source), pd.read_parquet(output)
    assert after["response"].tolist() == before.iloc[:, 0].tolist()
    assert after["attempts"].tolist() == [1] * len(frame)
    pd.testing.assert_index_equal(after.index, before.index)
    assert [str(kind) for kind in after.dtypes[: len(before.columns)]] == [str(kind) for kind in before.dtypes]
    assert json.loads(pq.read_schema(output).metadata[PANDAS_KEY])["columns"][-1]["name"] == "reasoning_tokens"


def test_an_output_as_input_has_one_manifest(tmp_path: Path, echo_job: Callable[..., GenerateJob]) -> None:
    first, second, third = (tmp_path / f"{name}.parquet" for name in "abc")
    pq.write_table(pa.table({"text": ["a"]}), first)
    run_partition(echo_job(), first, second)
    run_partition(echo_job(output_prefix="again_"), second, third)
    stored = pq.ParquetFile(third).metadata.metadata
    assert json.loads(stored[b"airflow_mullama"])["input_path"] == str(second)
    assert set(stored) == {b"ARROW:schema", b"airflow_mullama"}
