from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.manifest import PartitionManifest, manifest_without_input, merge_manifests
from airflow_mullama.progress import Progress
from airflow_mullama.row_counts import FIGURES, OF_ATTEMPT, RowCounts, add_up, count_rows, listed

MIXED = RowCounts(
    status_counts={"success": 7, "failed": 1, "invalid_output": 1, "skipped": 1},
    error_types={"timeout": 1, "invalid_json": 1, "null_input": 1},
    computed_rows=6,
)

numbers = st.integers(0, 10**9)
by_name = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 10**9), max_size=3)
some_counts = st.builds(
    RowCounts,
    **{
        one.name: by_name
        if one.name in ("status_counts", "error_types")
        else st.none() | numbers
        if one.default is None
        else numbers
        for one in fields(RowCounts)
    },
)


def rows(**columns: Any) -> pa.RecordBatch:
    status = columns.pop("status")
    known = {"status": status, "error_type": pa.nulls(len(status), pa.string()), **columns}
    return pa.RecordBatch.from_pydict(known)


def test_rows_are_counted_by_status_and_error_type() -> None:
    batch = rows(status=["success", "failed", "success"], error_type=pa.array([None, "timeout", None], pa.string()))
    counts = count_rows(batch)
    assert (counts.status_counts, counts.error_types) == ({"success": 2, "failed": 1}, {"timeout": 1})
    assert counts.rows == 3


def test_columns_are_added_up_and_a_null_is_nothing() -> None:
    batch = rows(status=["success", "skipped"], attempts=[2, 0], prompt_tokens=[5, None], truncated=[True, None])
    counts = count_rows(batch)
    assert (counts.attempts, counts.prompt_tokens, counts.completion_tokens, counts.truncated_rows) == (2, 5, 0, 1)


def test_a_job_that_cuts_nothing_has_no_such_figure() -> None:
    assert count_rows(rows(status=["success"])).truncated_rows is None
    assert (
        count_rows(
            rows(status=["success"], truncated=[None]).cast(
                pa.schema([("status", pa.string()), ("error_type", pa.string()), ("truncated", pa.bool_())])
            )
        ).truncated_rows
        == 0
    )


def test_what_the_engine_says_beside_the_rows_is_counted_too() -> None:
    outcomes = pa.RecordBatch.from_pydict({"cached_tokens": [3, None, 4]})
    counts = count_rows(rows(status=["success"] * 3), outcomes, computed=True)
    assert (counts.cached_prompt_tokens, counts.computed_rows, counts.deduplicated_rows) == (7, 3, 0)


def test_copies_are_not_computed() -> None:
    counts = count_rows(rows(status=["success"] * 3), deduplicated=True)
    assert (counts.computed_rows, counts.deduplicated_rows) == (0, 3)


def test_failed_and_retryable_rows_are_told_apart() -> None:
    assert (MIXED.rows, MIXED.failed_rows, MIXED.retryable_rows) == (10, 2, 1)
    assert (MIXED.error_ratio, RowCounts().error_ratio) == (0.2, 0.0)
    assert MIXED.failure_types == {"invalid_json": 1, "timeout": 1}


def test_the_computed_share_is_of_rows_that_were_asked() -> None:
    assert MIXED.computed_share == pytest.approx(6 / 9)
    assert RowCounts(status_counts={"skipped": 3}).computed_share == 0.0


def test_counts_are_listed_by_name() -> None:
    assert listed({"success": 1200, "failed": 3}) == "3 failed, 1200 success"


@given(st.lists(some_counts, max_size=4), st.lists(some_counts, max_size=4))
def test_sums_of_sums_are_the_sum(first: list[RowCounts], second: list[RowCounts]) -> None:
    total = add_up([*first, *second])
    assert add_up([add_up(first), add_up(second)]) == total
    assert total.rows == sum(one.rows for one in [*first, *second])
    assert add_up([total]) == total


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_reaches_progress_sums_and_the_manifest_and_its_json(name: str) -> None:
    value: Any = {"success": 5} if isinstance(getattr(RowCounts(), name), dict) else 5
    counts = replace(RowCounts(), **{name: value})
    progress = Progress(5, "/in.parquet", [])
    progress.add(counts)
    assert getattr(progress.counts, name) == value
    empty = manifest_without_input(task="embed", input_path="/in", output_path="/out", engine="echo", model="m")
    manifest = replace(empty, **counts.figures())
    assert getattr(merge_manifests([manifest, empty]), name) == value
    stored = PartitionManifest.from_json(json.loads(manifest.to_footer()))
    assert getattr(stored, name) == manifest.to_json()[name] == value
    assert getattr(manifest.as_up_to_date(), name) == (0 if name in OF_ATTEMPT else value)
