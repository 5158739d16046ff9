"""Identical requests are asked once, and every row gets its outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.errors import JobStoppedError
from airflow_mullama.run.duplicates import Duplicates
from airflow_mullama.run.runner import run_partition

SCHEMA = pa.schema([("row", pa.int64()), ("response", pa.string()), ("error_type", pa.string())])


def outcomes(rows: list[int], responses: list[str | None], errors: list[str | None]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"row": rows, "response": responses, "error_type": errors}, schema=SCHEMA)


@given(
    st.lists(st.lists(st.sampled_from("abcdef"), max_size=8), max_size=12),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3), max_size=3),
    st.integers(0, 30),
    st.integers(1, 400),
    st.randoms(use_true_random=False),
)
def test_every_row_gets_the_outcome_of_its_own_request_exactly_once(
    pieces, failures, rows_behind, remembered_bytes, random
):
    duplicates = Duplicates(rows_behind, remembered_bytes)
    texts: list[str] = []
    got: dict[int, str | None] = {}
    queued: list[tuple[int, str]] = []

    def take(batches: list[pa.RecordBatch]) -> None:
        for batch in batches:
            for line in batch.to_pylist():
                assert line["row"] not in got
                got[line["row"]] = line["response"]

    def answer_some() -> None:
        asked = [queued.pop(random.randrange(len(queued))) for _ in range(random.randint(1, len(queued)))]
        fails = []
        for _, text in asked:
            failures[text] = failures.get(text, 0) - 1
            fails.append("engine_error" if failures[text] >= 0 else None)
        batch = outcomes(
            [row for row, _ in asked],
            [None if error else text.upper() for (_, text), error in zip(asked, fails, strict=True)],
            fails,
        )
        take([batch])
        take(duplicates.settle(batch))

    for piece in pieces:
        rows = range(len(texts), len(texts) + len(piece))
        texts.extend(piece)
        asked_rows, asked_texts, known = duplicates.sift(rows, piece)
        take(known)
        queued.extend(zip(asked_rows, asked_texts, strict=True))
        if queued and random.random() < 0.5:
            answer_some()
    while queued:
        answer_some()

    assert sorted(got) == list(range(len(texts)))
    assert all(got[row] in (None, text.upper()) for row, text in enumerate(texts))
    assert duplicates.waiting_rows == 0


def test_a_failure_that_may_pass_is_that_of_the_rows_that_waited_and_of_no_later_one():
    duplicates = Duplicates()
    assert duplicates.sift([0, 1, 2], ["x", "x", "x"])[:2] == ([0], ["x"])
    (copies,) = duplicates.settle(outcomes([0], [None], ["timeout"]))
    assert copies.column("row").to_pylist() == [1, 2]
    assert copies.column("error_type").to_pylist() == ["timeout", "timeout"]
    assert duplicates.sift([3], ["x"])[:2] == ([3], ["x"])


def test_a_failure_of_the_requests_own_is_that_of_every_row():
    duplicates = Duplicates()
    duplicates.sift([0], ["x"])
    duplicates.settle(outcomes([0], [None], ["prompt_too_long"]))
    asked, _, (known,) = duplicates.sift([1, 2], ["x", "x"])
    assert asked == []
    assert known.column("error_type").to_pylist() == ["prompt_too_long"] * 2


def test_a_row_does_not_wait_for_one_far_before_it():
    duplicates = Duplicates(rows_behind=100)
    assert duplicates.sift([0, 100, 101, 150, 202], ["x"] * 5)[0] == [0, 101, 202]
    (copies,) = duplicates.settle(outcomes([101], ["X"], [None]))
    assert copies.column("row").to_pylist() == [150]
    (copies,) = duplicates.settle(outcomes([0, 202], ["X", "X"], [None, None]))
    assert copies.column("row").to_pylist() == [100]
    assert duplicates.sift([203], ["x"])[0] == []


def test_chunks_become_durable_though_the_first_row_with_their_text_hangs(
    echo_job: Any, write_parquet: Callable[..., Path], tmp_path: Path, recorder: Any
):
    texts = ["slow" if row % 20 == 0 else f"text {row}" for row in range(4000)]
    source = write_parquet(tmp_path / "in.parquet", texts)
    job = echo_job(faults={"hang": [0]}, chunk_rows=20, n_parallel=8)
    stop = threading.Event()
    strike = recorder(lambda snapshot: stop.set() if snapshot.done >= 3000 else None)

    with pytest.raises(JobStoppedError):
        run_partition(job, source, tmp_path / "out.parquet", listeners=[strike], stop=stop)

    assert len(list((tmp_path / "_mullama_stage").rglob("rows-*.arrow"))) >= 60
    assert run_partition(echo_job(chunk_rows=20), source, tmp_path / "out.parquet").status_counts == {"success": 4000}


def test_what_is_remembered_is_bounded():
    duplicates = Duplicates(remembered_bytes=10_000)
    for row in range(5_000):
        text = f"text {row}"
        duplicates.sift([row], [text])
        duplicates.settle(outcomes([row], [text], [None]))
    assert 0 < len(duplicates._known) < 200
    assert len(duplicates._segments) == 1
    assert duplicates.sift([9_000], ["text 0"])[0] == [9_000]
    assert duplicates.sift([9_001], ["text 4999"])[0] == []


def test_the_engine_is_asked_once_for_each_text_and_the_manifest_says_how_many_were_saved(
    echo_job: Any, write_parquet: Callable[..., Path], tmp_path: Path, request_log: Any
):
    texts = [None if row % 50 == 0 else f"text {row % 7}" for row in range(1000)]
    source = write_parquet(tmp_path / "in.parquet", texts)

    manifest = run_partition(echo_job(chunk_rows=64), source, tmp_path / "out.parquet")

    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("response").to_pylist() == texts
    assert table.column("id").to_pylist() == list(range(1000))
    assert len(request_log.rows()) == 7
    assert (manifest.computed_rows, manifest.deduplicated_rows) == (7, 973)
    assert manifest.status_counts == {"success": 980, "skipped": 20}
    assert manifest.prompt_tokens == 2 * 980


def test_the_duplicates_of_a_row_that_kills_the_worker_are_not_tried(
    echo_job: Any, write_parquet: Callable[..., Path], tmp_path: Path, request_log: Any
):
    source = write_parquet(tmp_path / "in.parquet", ["poison"] * 30 + ["sound"] * 30)

    manifest = run_partition(echo_job(faults={"crash": [0]}, max_error_ratio=1.0), source, tmp_path / "out.parquet")

    assert manifest.error_types == {"engine_crash": 30}
    assert set(request_log.rows()) == {0, 30}


def test_embeddings_are_shared_too(
    echo_embed_job: Any, write_parquet: Callable[..., Path], tmp_path: Path, request_log: Any
):
    source = write_parquet(tmp_path / "in.parquet", ["same", "other"] * 100)

    run_partition(echo_embed_job(), source, tmp_path / "out.parquet")

    vectors = pq.read_table(tmp_path / "out.parquet").column("embedding").to_pylist()
    assert len(request_log.rows()) == 2
    assert vectors == vectors[:2] * 100
    assert vectors[0] != vectors[1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampled_answers_are_shared_as_their_seed_comes_from_the_request(
    temperature: float, echo_job: Any, write_parquet: Callable[..., Path], tmp_path: Path, request_log: Any
):
    source = write_parquet(tmp_path / "in.parquet", ["same"] * 50)
    run_partition(echo_job(sampling={"temperature": temperature}), source, tmp_path / "out.parquet")
    assert len(request_log.rows()) == 1


def test_outcomes_that_come_one_by_one_take_no_more_memory_than_they_are_worth():
    process = psutil.Process()
    duplicates = Duplicates()
    before = process.memory_info().rss
    for row in range(20_000):
        text = f"text {row}"
        duplicates.sift([row], [text])
        duplicates.settle(outcomes([row], [text], [None]))
    assert process.memory_info().rss - before < 40 << 20
    assert len(duplicates._known) == 20_000


def test_typed_columns_of_duplicates_are_those_of_the_first(
    echo_job: Any, write_parquet: Callable[..., Path], tmp_path: Path, request_log: Any
):
    labels = [f"label{number}" for number in range(30)]
    answers = [f'{{"label": "{labels[row % 30]}", "marks": [{row % 30}]}}' for row in range(900)]
    schema = {
        "type": "object",
        "properties": {"label": {"enum": labels}, "marks": {"type": "array", "items": {"type": "integer"}}},
        "required": ["label", "marks"],
    }
    source = write_parquet(tmp_path / "in.parquet", answers)

    run_partition(echo_job(output_schema=schema, chunk_rows=100), source, tmp_path / "out.parquet")

    table = pq.read_table(tmp_path / "out.parquet")
    assert len(request_log.rows()) == 30
    assert table.column("label").to_pylist() == [labels[row % 30] for row in range(900)]
    assert table.column("marks").to_pylist() == [[row % 30] for row in range(900)]
