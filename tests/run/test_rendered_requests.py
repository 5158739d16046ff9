"""A row that is too large to be asked for is that row's error, and everything else stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.byte_bounds import MIB
from airflow_mullama.jobs.prompts import PromptTemplate
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.run import rendered_requests, run_partition
from airflow_mullama.run.rendered_requests import rendered


@pytest.fixture(autouse=True)
def small_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered_requests, "LARGEST_ROW_BYTES", 1 * MIB)


def requests(template: str, **columns: Any) -> list[str | RowError]:
    batch = pa.RecordBatch.from_pydict(columns)
    return rendered(PromptTemplate.parse(template), batch, range(batch.num_rows), {})


def error_types(found: list[str | RowError]) -> list[ErrorType | None]:
    return [one.error_type if isinstance(one, RowError) else None for one in found]


def test_only_the_heavy_row_of_a_batch_is_refused() -> None:
    found = requests("{text}!", text=["light", "x" * (MIB + 1), None, "x" * (MIB // 2)])
    assert error_types(found) == [None, ErrorType.ROW_TOO_LARGE, ErrorType.NULL_INPUT, None]
    assert found[0] == "light!"
    assert isinstance(found[1], RowError)
    assert found[1].message == "the columns of its prompt hold 1.0 MiB, and 1 MiB is the most"


def test_a_column_counts_as_often_as_the_template_has_it() -> None:
    assert error_types(requests("{a}{a}{a}", a=["x" * (MIB // 2)])) == [ErrorType.ROW_TOO_LARGE]
    assert error_types(requests("{a}", a=["x" * (MIB // 2)])) == [None]


def test_of_a_dictionary_the_rows_own_entry_counts() -> None:
    column = pa.array(["light", "x" * (MIB + 1)] * 3).dictionary_encode()
    assert error_types(requests("{text}", text=column)) == [None, ErrorType.ROW_TOO_LARGE] * 3


def test_what_is_large_only_as_a_text_is_refused_too() -> None:
    found = requests("{numbers}", numbers=pa.array([[1] * (MIB // 2), [1]], pa.list_(pa.int8())))
    assert error_types(found) == [ErrorType.ROW_TOO_LARGE, None]
    assert found[1] == "[1]"


def test_a_row_that_is_too_large_keeps_its_columns_and_is_not_asked_again(
    tmp_path: Path, write_parquet: Callable[..., Path], echo_job: Any, request_log: Any
) -> None:
    table = pa.table({"text": ["one", "x" * (2 * MIB), "three"], "picture": [b"a", b"b" * MIB, b"c" * (3 * MIB)]})
    source, output = write_parquet(tmp_path / "in.parquet", table), tmp_path / "out.parquet"
    job = echo_job(max_error_ratio=1.0)
    manifest = run_partition(job, source, output)
    written = pq.read_table(output)
    assert written.select(["text", "picture"]).equals(table)
    assert written.column("error_type").to_pylist() == [None, "row_too_large", None]  # a picture is not in the prompt
    assert written.column("attempts").to_pylist() == [1, 0, 1]
    assert manifest.retryable_rows == 0
    assert run_partition(job, source, output).skipped == "up_to_date"
    # Where another row changed, it is looked at again and not taken from the output.
    write_parquet(source, table.set_column(0, "text", pa.array(["two", "x" * (2 * MIB), "three"])))
    manifest = run_partition(job, source, output)
    assert (manifest.reused_rows, manifest.computed_rows) == (1, 1)
    assert sorted(request_log.rows()) == [0, 0, 2]
