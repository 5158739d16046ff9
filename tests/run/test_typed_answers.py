"""Answers that keep to an output schema, as columns; read by the echo engine's worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from airflow_mullama.run import run_partition

# Names that mean something between worker and task, or in the counts of other jobs.
SCHEMA = {
    "type": "object",
    "properties": {
        "truncated": {"enum": ["yes", "no"]},
        "cached_tokens": {"type": "string"},
        "confidence": {"type": "number"},
        "answer": {"type": "integer"},
        "embedding": {"type": "array", "items": {"type": "boolean"}},
    },
    "required": ["truncated", "cached_tokens", "confidence", "answer", "embedding"],
}
VALUES = {"truncated": "yes", "cached_tokens": "many", "confidence": 0.5, "answer": 42, "embedding": [True]}


def test_a_field_may_have_any_name_that_the_row_contract_leaves_free(
    echo_job: Any, write_parquet: Callable[..., Path], tmp_path: Path
) -> None:
    texts = [json.dumps(VALUES), None, "no JSON", json.dumps(VALUES)]
    source = write_parquet(tmp_path / "in.parquet", texts)
    job = echo_job(output_schema=SCHEMA, max_retries=0, max_error_ratio=1.0, chunk_rows=2)
    manifest = run_partition(job, source, tmp_path / "out.parquet", listeners=[])
    assert manifest.status_counts == {"success": 2, "skipped": 1, "invalid_output": 1}
    assert (manifest.truncated_rows, manifest.cached_prompt_tokens) == (None, 0)
    rows = pq.read_table(tmp_path / "out.parquet", columns=list(VALUES)).to_pylist()
    assert rows == [VALUES, dict.fromkeys(VALUES), dict.fromkeys(VALUES), VALUES]


def test_rows_asked_again_and_rows_of_an_earlier_attempt_keep_their_columns(
    echo_job: Any, write_parquet: Callable[..., Path], tmp_path: Path
) -> None:
    texts = [json.dumps({**VALUES, "answer": number}) for number in range(40)]
    source = write_parquet(tmp_path / "in.parquet", texts)
    faults = {"fail": [3, 17], "fail_once": [4, 18]}
    first = echo_job(output_schema=SCHEMA, chunk_rows=7, max_retries=1, faults=faults)
    run_partition(first, source, tmp_path / "out.parquet", listeners=[])
    answers = pq.read_table(tmp_path / "out.parquet")["answer"].to_pylist()
    assert answers == [None if number in (3, 17) else number for number in range(40)]
    mended = run_partition(echo_job(output_schema=SCHEMA, chunk_rows=7), source, tmp_path / "out.parquet", listeners=[])
    assert (mended.computed_rows, mended.repaired_rows) == (2, 2)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["answer"].to_pylist() == list(range(40))
    assert set(table["truncated"].to_pylist()) == {"yes"}
