"""Every row once, in order, its columns untouched: over tables that nobody would think of."""

from __future__ import annotations

import datetime
import decimal
import itertools
import queue
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mullama.engines.echo import hash_vector
from airflow_mullama.jobs.embed import EmbedJob
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.jobs.job import Job
from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.rows import RETRYABLE_ERROR_TYPES
from airflow_mullama.run.budget import Budget
from airflow_mullama.run.examination import PartitionWork
from airflow_mullama.run.outcome_rows import chunk_schema
from airflow_mullama.run.partition_run import PartitionRun
from airflow_mullama.run.prepare import engine_settings, prepare_model
from airflow_mullama.storage.parquet.dictionary_columns import wide_schema
from airflow_mullama.storage.parquet.input import open_input
from airflow_mullama.storage.parquet.output import read_published
from airflow_mullama.storage.partitions import discover_partitions
from airflow_mullama.storage.staging.stage import ChunkPlan, Stage
from airflow_mullama.worker.session import EngineSession

DIMENSIONS = 8


class SharedEngine:
    """One echo worker for many runs; a run that fails costs the next one a new worker, nothing else."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model = prepare_model(job)
        self._session = self._open()

    def _open(self) -> EngineSession:
        return EngineSession("echo", engine_settings(self._job, self._model))

    def run(self, job: Job, sources: Sequence[Path], output: Path) -> list[PartitionManifest]:
        partitions = discover_partitions([str(source) for source in sources], str(output))
        runs = [PartitionRun(PartitionWork(job, partition, self._model), [], lambda: False) for partition in partitions]
        try:
            return [run.run(self._session, Budget.of(job)) for run in runs]
        except BaseException:
            self.close()
            self._session = self._open()
            raise
        finally:
            _drain(self._session.events)

    def fingerprint(self, job: Job, source: Path, output: Path) -> str:
        (partition,) = discover_partitions(str(source), str(output))
        identity = open_input(partition.files).identity
        return job.fingerprint(input_identity=identity, model_sha256=self._model.sha256)

    def close(self) -> None:
        self._session.close()


def _drain(events: queue.SimpleQueue[Any]) -> None:
    while not events.empty():
        events.get_nowait()


@pytest.fixture(scope="module")
def generator() -> Iterator[SharedEngine]:
    engine = SharedEngine(GenerateJob(model="echo", prompt_template="{text}"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def embedder() -> Iterator[SharedEngine]:
    engine = SharedEngine(EmbedJob(model="echo", text_column="text"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def failing_generator() -> Iterator[SharedEngine]:
    """Rows 1, 4, 7, ... of a partition fail."""
    faults = {"fail": list(range(1, 200, 3))}
    job = GenerateJob(model="echo", prompt_template="{text}", max_retries=0, engine_options={"faults": faults})
    engine = SharedEngine(job)
    yield engine
    engine.close()


# --- tables -----------------------------------------------------------------------------------------------------------

any_text = st.one_of(
    st.sampled_from(
        ["", " ", "🧾 déjà vu", "👩‍👩‍👧‍👦", "日本語", "a\x00b", "{text}", "\ufffd", "line\nline", "<|im_end|>"]
    ),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
)
words = st.sampled_from(["red", "green", "blue", "", "🟡"])
moments = st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(2200, 1, 1))  # noqa: DTZ001
int64s = st.integers(-(2**63), 2**63 - 1)

COLUMN_TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "bool": (pa.bool_(), st.booleans()),
    "int8": (pa.int8(), st.integers(-128, 127)),
    "int64": (pa.int64(), int64s),
    "uint64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "float32": (pa.float32(), st.floats(width=32)),
    "float64": (pa.float64(), st.floats()),
    "string": (pa.string(), any_text),
    "large_string": (pa.large_string(), any_text),
    "binary": (pa.binary(), st.binary(max_size=8)),
    "fixed_binary": (pa.binary(3), st.binary(min_size=3, max_size=3)),
    "decimal": (
        pa.decimal128(12, 3),
        st.integers(-(10**12) + 1, 10**12 - 1).map(lambda value: decimal.Decimal(value).scaleb(-3)),
    ),
    "date": (pa.date32(), st.dates()),
    "time": (pa.time64("us"), st.times()),
    "timestamp": (pa.timestamp("us"), moments),
    "timestamp_zone": (pa.timestamp("us", "Europe/Berlin"), moments),
    "timestamp_ns": (pa.timestamp("ns", "UTC"), st.integers(-(2**60), 2**60)),
    "duration": (pa.duration("ms"), st.integers(-(10**12), 10**12)),
    "list": (pa.list_(pa.int32()), st.lists(st.none() | st.integers(-9, 9), max_size=3)),
    "fixed_list": (pa.list_(pa.float32(), 2), st.lists(st.floats(width=32), min_size=2, max_size=2)),
    "struct": (
        pa.struct([("number", pa.int64()), ("name", pa.string())]),
        st.fixed_dictionaries({"number": st.none() | int64s, "name": st.none() | any_text}),
    ),
    "list_of_structs": (
        pa.list_(pa.struct([("when", pa.timestamp("us", "UTC")), ("what", pa.binary())])),
        st.lists(st.fixed_dictionaries({"when": moments, "what": st.binary(max_size=3)}), max_size=2),
    ),
    "map": (pa.map_(pa.string(), pa.int32()), st.lists(st.tuples(words, st.integers(0, 9)), max_size=2)),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), words),
    "small_dictionary": (pa.dictionary(pa.int8(), pa.string()), words),
    "struct_of_dictionary": (
        pa.struct([("colour", pa.dictionary(pa.int32(), pa.string()))]),
        st.fixed_dictionaries({"colour": st.none() | words}),
    ),
    "list_of_dictionary": (pa.list_(pa.dictionary(pa.int32(), pa.string())), st.lists(words, max_size=3)),
    "null": (pa.null(), st.none()),
}


@st.composite
def columns(draw: st.DrawFn, kind: str, name: str, rows: int) -> tuple[pa.Field, pa.Array]:
    data_type, values = COLUMN_TYPES[kind]
    whole = draw(st.booleans()) and kind != "null"
    drawn = draw(st.lists(values if whole else st.none() | values, min_size=rows, max_size=rows))
    metadata = draw(st.sampled_from([None, {b"unit": b"EUR", b"\xc3\xa4": b""}]))
    return pa.field(name, data_type, nullable=not whole, metadata=metadata), pa.array(drawn, data_type)


@st.composite
def tables(draw: st.DrawFn, max_rows: int = 30) -> pa.Table:
    """A table with a column ``text`` somewhere among others."""
    rows = draw(st.integers(0, max_rows))
    kinds = draw(st.lists(st.sampled_from(sorted(COLUMN_TYPES)), max_size=4))
    drawn = [draw(columns(kind, f"{kind} {place}", rows)) for place, kind in enumerate(kinds)]
    text = draw(columns(draw(st.sampled_from(["string", "large_string", "dictionary"])), "text", rows))
    drawn.insert(draw(st.integers(0, len(drawn))), text)
    metadata = draw(st.sampled_from([None, {b"owner": b"finance"}]))
    return pa.table([array for _, array in drawn], schema=pa.schema([field for field, _ in drawn], metadata=metadata))


@st.composite
def partitions(draw: st.DrawFn) -> tuple[list[pa.Table], list[int]]:
    """A table cut into files, and each file's rows in a row group."""
    table = draw(tables())
    cuts = sorted(draw(st.lists(st.integers(0, table.num_rows), max_size=3)))
    borders = [0, *cuts, table.num_rows]
    files = [table.slice(start, stop - start) for start, stop in itertools.pairwise(borders)]
    return files, [draw(st.sampled_from([1, 2, 3, 7, 1000])) for _ in files]


@pytest.fixture
def write_partition() -> Iterator[Any]:
    """Write a drawn partition to a folder of its own; hypothesis keeps one ``tmp_path`` for all examples."""
    folders: list[Path] = []

    def write(files: Sequence[pa.Table], group_rows: Sequence[int]) -> Path:
        folders.append(folder := Path(tempfile.mkdtemp(prefix="rows-")))
        (folder / "in").mkdir()
        for number, (table, rows) in enumerate(zip(files, group_rows, strict=True)):
            pq.write_table(table, folder / "in" / f"part-{number}.parquet", row_group_size=rows)
        return folder

    yield write
    for folder in folders:
        shutil.rmtree(folder)


# --- what must hold ---------------------------------------------------------------------------------------------------


def read(path: Path) -> pa.Table:
    # Arrow reads a dictionary inside of another type only within one row group.
    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
        return pa.concat_tables([file.schema_arrow.empty_table(), *groups])


def read_input(folder: Path) -> pa.Table:
    return pa.concat_tables([read(path) for path in sorted((folder / "in").glob("*.parquet"))])


def assert_input_unchanged(given_: pa.Table, output: pa.Table) -> None:
    kept = output.select(range(given_.num_columns))
    given_ = given_.cast(wide_schema(given_.schema))  # a dictionary's index may be widened, its values stay
    assert kept.schema.equals(given_.schema, check_metadata=False)
    assert [field.metadata for field in kept.schema] == [field.metadata for field in given_.schema]
    for key, value in (given_.schema.metadata or {}).items():
        assert output.schema.metadata[key] == value
    assert output.num_rows == given_.num_rows
    for before, after in zip(given_.columns, kept.columns, strict=True):
        # NaN differs from itself, so what holds one is compared as it is written.
        assert after.equals(before) or repr(after.to_pylist()) == repr(before.to_pylist())


def assert_contract(output: pa.Table, manifest: PartitionManifest, job: Job) -> list[dict[str, Any]]:
    added_names = [job.output_prefix + name for name in job.added_column_names]
    assert output.schema.names[-len(added_names) :] == added_names
    added = output.select(added_names).rename_columns(list(job.added_column_names))
    expected = job.result_columns(DIMENSIONS)
    assert [field.type for field in added.schema] == [field.type for field in expected.fields]
    rows = added.to_pylist()
    for row in rows:
        results = [row[name] for name in expected.result_names]
        if row["status"] == "success":
            assert row["error_type"] is None
            assert row["error"] is None
            assert row["attempts"] >= 1
            assert row["prompt_tokens"] is not None
            assert None not in results
        else:
            assert row["error_type"]
            assert row["error"]
            assert set(results) == {None}
        assert (row["status"] == "skipped") == (row["error_type"] == "null_input")
    counted = {status: sum(row["status"] == status for row in rows) for status in {row["status"] for row in rows}}
    assert manifest.status_counts == counted
    assert manifest.rows == len(rows) == sum(manifest.status_counts.values())
    types = {row["error_type"] for row in rows} - {None}
    assert manifest.error_types == {name: sum(row["error_type"] == name for row in rows) for name in types}
    assert manifest.attempts == sum(row["attempts"] for row in rows)
    assert manifest.prompt_tokens == sum(row["prompt_tokens"] or 0 for row in rows)
    return rows


@settings(max_examples=80)
@given(
    drawn=partitions(),
    chunk_rows=st.sampled_from([1, 2, 3, 5, 8, 1000]),
    prefix=st.sampled_from(["", "tag_"]),
)
def test_generation_keeps_every_row_in_order_with_its_columns_unchanged(
    generator: SharedEngine, write_partition: Any, drawn: Any, chunk_rows: int, prefix: str
) -> None:
    folder = write_partition(*drawn)
    job = GenerateJob(model="echo", prompt_template="{text}", chunk_rows=chunk_rows, output_prefix=prefix)
    (manifest,) = generator.run(job, [folder / "in"], folder / "out.parquet")
    source, output = read_input(folder), read(folder / "out.parquet")
    assert_input_unchanged(source, output)
    rows = assert_contract(output, manifest, job)
    assert [row["response"] for row in rows] == source.column("text").to_pylist()
    assert {row["status"] for row in rows} <= {"success", "skipped"}


@settings(max_examples=40)
@given(drawn=partitions(), chunk_rows=st.sampled_from([1, 3, 8, 1000]), prefix=st.sampled_from(["", "vector_"]))
def test_embedding_keeps_every_row_in_order_with_its_columns_unchanged(
    embedder: SharedEngine, write_partition: Any, drawn: Any, chunk_rows: int, prefix: str
) -> None:
    folder = write_partition(*drawn)
    job = EmbedJob(model="echo", text_column="text", chunk_rows=chunk_rows, output_prefix=prefix)
    (manifest,) = embedder.run(job, [folder / "in"], folder / "out.parquet")
    source, output = read_input(folder), read(folder / "out.parquet")
    assert_input_unchanged(source, output)
    rows = assert_contract(output, manifest, job)
    for text, row in zip(source.column("text").to_pylist(), rows, strict=True):
        if text is None:
            assert row["embedding"] is None
        else:
            vector = hash_vector(text, DIMENSIONS)
            np.testing.assert_allclose(row["embedding"], vector / np.linalg.norm(vector), rtol=1e-5, atol=1e-7)


@settings(max_examples=40)
@given(data=st.data(), drawn=partitions(), chunk_rows=st.sampled_from([1, 4, 1000]))
def test_any_column_may_stand_in_a_template_and_so_may_none(
    generator: SharedEngine, write_partition: Any, data: st.DataObject, drawn: Any, chunk_rows: int
) -> None:
    folder = write_partition(*drawn)
    source = read_input(folder)
    names = [name for name in source.column_names if name.strip()]
    used = data.draw(st.lists(st.sampled_from(names), max_size=3), label="columns used")
    template = "{{start}}" + "".join(f" | {{{name}}}" for name in used)
    job = GenerateJob(model="echo", prompt_template=template, chunk_rows=chunk_rows)
    (manifest,) = generator.run(job, [folder / "in"], folder / "out.parquet")
    output = read(folder / "out.parquet")
    assert_input_unchanged(source, output)
    rows = assert_contract(output, manifest, job)
    nulls = [any(source.column(name)[place].is_valid is False for name in used) for place in range(len(rows))]
    for has_null, row in zip(nulls, rows, strict=True):
        if row["status"] == "success":
            assert not has_null
            assert row["response"].startswith("{start}")
        else:
            assert row["error_type"] in ("null_input", "render_error")
            assert has_null or row["error_type"] == "render_error"


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    chunk_rows=st.sampled_from([1, 5, 1000]),
)
def test_partitions_that_share_an_engine_do_not_touch_each_other(
    generator: SharedEngine, write_partition: Any, sizes: list[int], chunk_rows: int
) -> None:
    files = [pa.table({"text": pa.array([f"{n}-{row}" for row in range(size)])}) for n, size in enumerate(sizes)]
    folder = write_partition(files, [5] * len(files))
    sources = sorted((folder / "in").glob("*.parquet"))
    job = GenerateJob(model="echo", prompt_template="{text}", chunk_rows=chunk_rows)
    manifests = generator.run(job, sources, folder / "out")
    for table, source, manifest in zip(files, sources, manifests, strict=True):
        output = read(folder / "out" / source.name)
        assert_input_unchanged(table, output)
        rows = assert_contract(output, manifest, job)
        assert [row["response"] for row in rows] == table.column("text").to_pylist()


@st.composite
def file_sizes(draw: st.DrawFn) -> list[int]:
    """Rows of a partition's files: what is read at once ends where a file does, so chunks lie across."""
    return draw(st.lists(st.integers(0, 12), min_size=1, max_size=4).filter(any))


def cut(table: pa.Table, sizes: Sequence[int]) -> list[pa.Table]:
    return [table.slice(sum(sizes[:number]), size) for number, size in enumerate(sizes)]


@settings(max_examples=40)
@given(data=st.data(), sizes=file_sizes(), chunk_rows=st.sampled_from([1, 2, 5, 9, 1000]))
def test_whatever_is_staged_only_the_other_rows_are_asked_and_the_result_is_the_same(
    generator: SharedEngine, write_partition: Any, data: st.DataObject, sizes: list[int], chunk_rows: int
) -> None:
    rows = sum(sizes)
    table = pa.table({"text": pa.array([None if row % 7 == 6 else f"row {row}" for row in range(rows)])})
    folder = write_partition(cut(table, sizes), [5] * len(sizes))
    job = GenerateJob(model="echo", prompt_template="{text}", chunk_rows=chunk_rows)
    source, undisturbed, output = folder / "in", folder / "undisturbed.parquet", folder / "out.parquet"
    generator.run(job, [source], undisturbed)

    (partition,) = discover_partitions(str(source), str(output))
    (other,) = discover_partitions(str(source), str(undisturbed))
    published = read_published(other.output)
    assert published is not None
    done = pa.Table.from_batches(list(published.outcomes(job.result_columns(None), "")))
    done = done.add_column(0, "row", pa.array(range(rows), pa.int64()))
    stage = Stage(partition.output, generator.fingerprint(job, source, output), chunk_schema(job.result_columns(None)))
    stage.open()
    staged: set[int] = set()
    for chunk in ChunkPlan(rows, chunk_rows):
        some = st.sets(st.integers(chunk.start, chunk.stop - 1))
        kept = data.draw(st.none() | st.just(range(chunk.start, chunk.stop)) | some, label=f"staged of {chunk}")
        if kept is not None:
            staged |= set(kept)
            stage.write(chunk, done.take(pa.array(sorted(kept), pa.int64())))

    (manifest,) = generator.run(job, [source], output)
    assert read(output).equals(read(undisturbed))
    assert manifest.resumed_rows == len(staged)
    assert manifest.computed_rows == sum(row not in staged and row % 7 != 6 for row in range(rows))
    assert_contract(read(output), manifest, job)
    assert list(output.parent.glob("_mullama_stage*")) == []


@settings(max_examples=40)
@given(sizes=file_sizes(), chunk_rows=st.sampled_from([1, 2, 5, 9, 1000]))
def test_repair_asks_only_rows_with_a_retryable_error_and_keeps_the_others(
    generator: SharedEngine,
    failing_generator: SharedEngine,
    write_partition: Any,
    sizes: list[int],
    chunk_rows: int,
) -> None:
    rows = sum(sizes)
    table = pa.table({"id": pa.array(range(rows)), "text": pa.array([f"row {row}" for row in range(rows)])})
    folder = write_partition(cut(table, sizes), [5] * len(sizes))
    source, output = folder / "in", folder / "out.parquet"
    sound = GenerateJob(model="echo", prompt_template="{text}", chunk_rows=chunk_rows)
    (broken,) = failing_generator.run(replace(sound, max_retries=0), [source], output)
    failed = len(range(1, rows, 3))
    assert broken.status_counts.get("failed", 0) == failed == broken.retryable_rows
    assert set(broken.error_types) <= set(RETRYABLE_ERROR_TYPES)

    (mended,) = generator.run(sound, [source], output)
    assert mended.computed_rows == failed
    if failed:
        assert mended.repaired_rows == failed
        assert mended.skipped is None
    else:
        assert mended.skipped == "up_to_date"
    result = read(output)
    assert_input_unchanged(table, result)
    assert result.column("response").to_pylist() == table.column("text").to_pylist()
    assert mended.status_counts == {"success": rows}
