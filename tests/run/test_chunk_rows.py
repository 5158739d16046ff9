"""`chunk_output="rows"`: one row for each chunk, and all that holds for outputs holds for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama import EmbedJob, run_job, run_partition, summarize_manifests
from airflow_mullama.commands.main import main
from airflow_mullama.errors import ColumnClashError, ConfigurationError
from airflow_mullama.rows import CHUNKS, document_columns
from airflow_mullama.storage.chunk_rows import columns as chunk_rows
from airflow_mullama.storage.chunk_rows.columns import gathered_chunks, gathered_texts, gathered_tokens, spread

pytestmark = pytest.mark.usefixtures("no_worker_left")

LETTER = "The parcel never came. I asked twice, on Monday and on Friday. Nobody answered. "
STORY = "It rained for three days. Then it stopped, and the sun came out. We went for a walk. "
TEXTS = [LETTER + STORY, None, "Short.", STORY + LETTER, "", LETTER + STORY]


def embed_job(**changes: Any) -> EmbedJob:
    defaults = {
        "model": "echo",
        "text_column": "text",
        "chunking": {"tokens": 14, "overlap": 4},
        "chunk_output": "rows",
        "max_error_ratio": 1.0,
        "max_retries": 0,
    }
    return EmbedJob(**{**defaults, **changes})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.parquet", TEXTS)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.parquet"


def write(path: Path, texts: list[str | None]) -> Path:
    ids = range(len(texts))
    pq.write_table(pa.table({"id": ids, "text": pa.array(texts, pa.string()), "tag": [f"t{i}" for i in ids]}), path)
    return path


def as_lists(source: Path, target: Path, **changes: Any) -> list[dict[str, Any]]:
    """The same work, as an output of lists."""
    lists = target.parent / "lists.parquet"
    lists.unlink(missing_ok=True)
    run_partition(embed_job(chunk_output="list", **changes), source, lists, listeners=[])
    rows: list[dict[str, Any]] = pq.read_table(lists).to_pylist()
    return rows


def test_each_chunk_is_a_row_with_the_other_columns_of_its_row(source: Path, target: Path) -> None:
    manifest = run_partition(embed_job(), source, target, listeners=[])
    table = pq.read_table(target)
    assert table.schema.names == [
        *("id", "tag", "chunk_index", "chunk_start", "chunk_end", "chunk_text", "embedding"),
        *("status", "error_type", "error", "attempts", "prompt_tokens"),
    ]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    rows = iter(table.to_pylist())
    for expected in as_lists(source, target):
        same = {name: expected[name] for name in ("id", "tag", "status", "error_type", "error", "attempts")}
        for index, chunk in enumerate(expected["chunks"] or ()):
            assert next(rows) == {
                **same,
                "chunk_index": index,
                "chunk_start": chunk["start"],
                "chunk_end": chunk["end"],
                "chunk_text": expected["text"][chunk["start"] : chunk["end"]],
                "embedding": chunk["embedding"],
                "prompt_tokens": chunk["tokens"],
            }
        if expected["chunks"] is None:
            assert next(rows) == {
                **same,
                **dict.fromkeys(
                    ["chunk_index", "chunk_start", "chunk_end", "chunk_text", "embedding", "prompt_tokens"]
                ),
            }
    assert next(rows, None) is None
    assert manifest.rows == len(TEXTS)
    assert manifest.chunks is not None
    assert manifest.output_rows == table.num_rows == manifest.chunks + 1
    assert manifest.to_json()["output_rows"] == table.num_rows


def test_a_failed_row_stays_one_row_and_is_repaired(source: Path, target: Path) -> None:
    failing = embed_job(engine_options={"faults": {"fail": [3]}})
    manifest = run_partition(failing, source, target, listeners=[])
    assert manifest.status_counts == {"success": 4, "failed": 1, "skipped": 1}
    (failed,) = [row for row in pq.read_table(target).to_pylist() if row["status"] == "failed"]
    assert (failed["id"], failed["chunk_index"], failed["embedding"]) == (3, None, None)
    assert re.match(r"chunk \d \(characters", failed["error"])  # each of them fails, and any may be the first
    repaired = run_partition(embed_job(), source, target, listeners=[])
    assert (repaired.repaired_rows, repaired.computed_rows) == (1, 1)
    direct = target.parent / "direct.parquet"
    run_partition(embed_job(), source, direct, listeners=[])
    assert pq.read_table(target).equals(pq.read_table(direct))
    again = run_partition(embed_job(), source, target, listeners=[])
    assert (again.skipped, again.output_rows) == ("up_to_date", repaired.output_rows)


@pytest.mark.parametrize("prefix", ["", "doc_"])
def test_a_changed_input_reuses_documents_that_are_put_together_from_their_chunks(
    source: Path, target: Path, prefix: str
) -> None:
    job = embed_job(
        text_column=None,
        text_template="{tag}: {text}",
        chunking={"tokens": 14, "overlap": 4, "column": "text"},
        output_prefix=prefix,
    )
    run_partition(job, source, target, listeners=[])
    write(source, [*TEXTS[:3], "A new text.", *TEXTS[4:]])
    manifest = run_partition(job, source, target, listeners=[])
    assert (manifest.reused_rows, manifest.computed_rows) == (4, 1)
    direct = target.parent / "direct.parquet"
    run_partition(job, source, direct, listeners=[])
    ours, theirs = pq.read_table(target), pq.read_table(direct)
    assert ours.drop([f"{prefix}attempts"]).equals(theirs.drop([f"{prefix}attempts"]))


def test_a_document_may_be_in_several_row_groups(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_rows, "READ_BATCH_BYTES", 1)
    monkeypatch.setattr("airflow_mullama.storage.parquet.whole_file.ROW_GROUP_BYTES", 1)
    failing = embed_job(engine_options={"faults": {"fail": [2]}})
    run_partition(failing, source, target, listeners=[])
    assert pq.ParquetFile(target).num_row_groups == pq.ParquetFile(target).metadata.num_rows > 10
    repaired = run_partition(embed_job(), source, target, listeners=[])
    assert repaired.repaired_rows == 1
    write(source, [*TEXTS, "One more."])
    reused = run_partition(embed_job(), source, target, listeners=[])
    assert (reused.reused_rows, reused.computed_rows) == (5, 1)
    indexes = pq.read_table(target)["chunk_index"].to_pylist()
    assert indexes == [
        index for row in as_lists(source, target) for index in (range(len(row["chunks"])) if row["chunks"] else [None])
    ]


def test_an_empty_partition_has_an_output_without_rows(source: Path, target: Path) -> None:
    write(source, [])
    manifest = run_partition(embed_job(), source, target, listeners=[])
    assert (manifest.rows, manifest.output_rows, pq.read_table(target).num_rows) == (0, 0, 0)
    assert run_partition(embed_job(), source, target, listeners=[]).skipped == "up_to_date"


def test_outputs_of_both_kinds_do_not_replace_each_other_unseen(source: Path, target: Path) -> None:
    run_partition(embed_job(chunk_output="list"), source, target, listeners=[])
    manifest = run_partition(embed_job(), source, target, listeners=[])
    assert (manifest.skipped, manifest.reused_rows) == (None, 0)
    assert "chunk_index" in pq.read_schema(target).names


def test_rows_of_several_partitions_add_up(tmp_path: Path) -> None:
    sources = [write(tmp_path / f"{name}.parquet", texts) for name, texts in (("a", TEXTS), ("b", ["One."]))]
    manifest = run_job(embed_job(), [str(path) for path in sources], str(tmp_path / "out"), listeners=[])
    rows = [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "out").glob("*.parquet"))]
    assert manifest.output_rows == sum(rows)
    assert summarize_manifests([manifest.to_json()])["output_rows"] == sum(rows)


def test_what_cannot_work_is_refused(source: Path, target: Path) -> None:
    with pytest.raises(ConfigurationError, match="without chunking there are no chunks"):
        embed_job(chunking=None)
    with pytest.raises(ConfigurationError, match="each row has the vector of its chunk"):
        embed_job(pooled="mean")
    with pytest.raises(ConfigurationError, match="chunk_output is 'table'"):
        embed_job(chunk_output="table")
    pq.write_table(pq.read_table(source).append_column("chunk_text", pa.array(["x"] * len(TEXTS))), source)
    with pytest.raises(ColumnClashError, match="'chunk_text'"):
        run_partition(embed_job(), source, target, listeners=[])


def test_the_command_line_writes_them_too(source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["embed", str(source), str(target), "--text-column", "text", "--model", "echo", "--json"]
    with pytest.raises(SystemExit) as exit_info:
        main([*arguments, "--chunk-tokens", "14", "--chunk-output", "rows"])
    assert exit_info.value.code == 0
    assert json.loads(capsys.readouterr().out)["output_rows"] == pq.read_metadata(target).num_rows


LENGTHS = st.lists(st.one_of(st.none(), st.integers(1, 5)), min_size=1, max_size=8)


@given(LENGTHS, st.integers(1, 30_000), st.randoms(use_true_random=False))
def test_what_is_spread_can_be_gathered(lengths: list[int | None], part_bytes: int, random: Any) -> None:
    kind = document_columns(3, pa.float32(), pooled=False).schema.field(CHUNKS).type
    texts: list[str | None] = []
    chunks: list[Any] = []
    for length in lengths:
        if length is None:
            texts.append(random.choice([None, "failed"]))
            chunks.append(None)
            continue
        ends = sorted(random.sample(range(1, 40), length))
        texts.append("".join(random.choice("ab é漢") for _ in range(ends[-1])))
        starts = [0, *(random.randint(max(0, end - 3), end) for end in ends[:-1])]
        chunks.append(
            [
                {"start": start, "end": end, "tokens": random.randint(0, 9), "embedding": [random.random()] * 3}
                for start, end in zip(starts, ends, strict=True)
            ]
        )
    tokens = [None if of_row is None else sum(chunk["tokens"] for chunk in of_row) for of_row in chunks]
    batch = pa.RecordBatch.from_pydict({"id": list(range(len(texts))), "text": pa.array(texts, pa.string())})
    outcomes = pa.table({"chunks": pa.array(chunks, kind), "prompt_tokens": pa.array(tokens, pa.int32())})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chunk_rows, "READ_BATCH_BYTES", part_bytes)
        parts = list(spread(batch, outcomes, texts, "text"))
    table = pa.concat_tables([beside for _, beside in parts])
    assert gathered_chunks(table, "").cast(kind).equals(outcomes["chunks"].combine_chunks())
    assert gathered_tokens(table, "").to_pylist() == tokens
    assert gathered_texts(table, "").to_pylist() == [
        text if of_row is not None else None for text, of_row in zip(texts, chunks, strict=True)
    ]
    ids = np.concatenate([rows.column("id").to_numpy() for rows, _ in parts])
    assert ids.tolist() == [row for row, length in enumerate(lengths) for _ in range(length or 1)]


def test_a_document_of_many_chunks_is_spread_without_copies_of_all_of_them() -> None:
    length, dimensions = 2000, 64
    kind = document_columns(dimensions, pa.float32(), pooled=False).schema.field(CHUNKS).type
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(length * dimensions, np.float32)), dimensions)
    places = pa.array(range(length), pa.int32())
    chunks = pa.StructArray.from_arrays([places, places, places, vectors], fields=list(kind.value_type))
    column = pa.ListArray.from_arrays(pa.array([0, length], pa.int32()), chunks, type=kind)
    outcomes = pa.table({"row": pa.array([0]), "chunks": column, "prompt_tokens": pa.array([length], pa.int32())})
    batch = pa.RecordBatch.from_pydict({"text": ["x" * length]})
    before = pa.total_allocated_bytes()
    rows = 0
    for _, beside in spread(batch, outcomes, ["x" * length], "text"):
        rows += beside.num_rows
        assert pa.total_allocated_bytes() - before < 8 * outcomes.nbytes
    assert rows == length


@pytest.fixture(params=["delta", "iceberg"])
def table(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Callable[[], pa.Table]]:
    """The address of a table that is not there yet, and what reads it."""
    if request.param == "delta":
        deltalake = pytest.importorskip("deltalake")
        folder = str(tmp_path / "table")
        return f"delta://{folder}", lambda: pa.table(
            deltalake.QueryBuilder().register("t", deltalake.DeltaTable(folder)).execute("SELECT * FROM t")
        )
    pytest.importorskip("pyiceberg")
    from tests.storage.iceberg.catalogs import configure

    catalog = configure(monkeypatch, "shop", tmp_path / "catalog", f"file://{tmp_path}/warehouse")
    return "iceberg://shop/lake.chunks", lambda: catalog.load_table("lake.chunks").scan().to_arrow()


def test_a_table_has_them_too(source: Path, target: Path, table: tuple[str, Callable[[], pa.Table]]) -> None:
    address, read = table
    failing = embed_job(engine_options={"faults": {"fail": [3]}})
    first = run_partition(failing, source, address, listeners=[])
    assert first.status_counts == {"success": 4, "failed": 1, "skipped": 1}
    repaired = run_partition(embed_job(), source, address, listeners=[])
    assert (repaired.repaired_rows, repaired.computed_rows) == (1, 1)
    assert run_partition(embed_job(), source, address, listeners=[]).skipped == "up_to_date"
    write(source, [*TEXTS[:3], "A new text.", *TEXTS[4:]])
    changed = run_partition(embed_job(), source, address, listeners=[])
    assert (changed.reused_rows, changed.computed_rows) == (4, 1)
    run_partition(embed_job(), source, target, listeners=[])
    names = [
        "id",
        "tag",
        "chunk_index",
        "chunk_start",
        "chunk_end",
        "chunk_text",
        "embedding",
        "status",
        "prompt_tokens",
    ]
    assert read().select(names).to_pylist() == pq.read_table(target).select(names).to_pylist()
