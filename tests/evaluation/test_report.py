from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_mullama import EmbedJob, run_partition
from airflow_mullama.evaluation.page import html_page
from airflow_mullama.evaluation.report import Lengths, report


def test_a_report_has_counts_errors_labels_and_rows(labelled: Callable[..., Path]):
    found = report(labelled(["billing"] * 3 + ["shipping", "x", "y", "z", "w", None], [None] * 9)).to_json()

    assert found["rows"] == 9
    assert found["status_counts"] == {"success": 4, "invalid_output": 4, "skipped": 1}
    assert found["labels"] == {"label": {"billing": 3, "shipping": 1}}
    assert [len(rows) for rows in found["error_rows"].values()] == [3, 1]
    assert len(found["random_rows"]) == 9
    assert found["lengths"]["completion_tokens"]["rows"] == 8


def test_a_report_is_the_same_each_time_and_shows_ten_rows_of_all_files(labelled: Callable[..., Path], tmp_path: Path):
    for day in range(3):
        labelled(["billing"] * 20, [None] * 20, f"all/ds={day}/a.parquet")

    found = report(tmp_path / "all")

    assert len(found.random_rows) == 10
    assert len({row.place.split()[0] for row in found.random_rows}) > 1
    assert found.to_json() == report(tmp_path / "all").to_json()


def test_a_vector_is_told_by_its_length(tmp_path: Path, write_parquet: Any):
    source = write_parquet(tmp_path / "in.parquet", ["a"])
    run_partition(EmbedJob(model="echo", text_column="text"), source, tmp_path / "out.parquet")

    (row,) = report(tmp_path / "out.parquet").random_rows

    assert row.outcome == "64 numbers" or row.outcome.endswith(" numbers")


def test_of_an_output_with_a_row_for_each_chunk_any_row_is_shown(tmp_path: Path, write_parquet: Any):
    source = write_parquet(tmp_path / "in.parquet", ["One two three four five six seven. " * 4])
    job = EmbedJob(model="echo", text_column="text", chunking={"tokens": 8}, chunk_output="rows")
    manifest = run_partition(job, source, tmp_path / "out.parquet")

    found = report(tmp_path / "out.parquet")

    assert (manifest.rows, manifest.rows_of_output) == (1, 4)
    assert [row.place for row in found.random_rows] == ["0", "1", "2", "3"]
    assert ("rows of the output", "4") in found.sections()[0].rows


def test_no_rows_make_a_report_too(tmp_path: Path, write_parquet: Any, answered: Callable[..., Path]):
    output = answered({"answer": ["a"][:0], "text": ["b"][:0]})

    assert report(output).to_json()["rows"] == 0
    assert report(output).sections()


def test_a_page_escapes_what_rows_say(answered: Callable[..., Path]):
    output = answered({"answer": ["<script>alert(1)</script> & \x1b[31m"]})

    page = html_page("<t>", "s", report(output).sections())

    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; \\x1b[31m" in page
    assert "&lt;t&gt;" in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page


def test_the_spread_of_a_long_column_is_taken_from_an_even_sample(monkeypatch: pytest.MonkeyPatch):
    import pyarrow as pa

    from airflow_mullama.evaluation import report as module

    monkeypatch.setattr(module, "MOST_LENGTHS", 500)
    lengths = Lengths()
    for start in range(0, 10_000, 1000):
        lengths.add(pa.array(range(start, start + 1000)))

    spread = lengths.to_json()

    assert (spread["rows"], spread["mean"]) == (10_000, 4999.5)
    assert spread["median"] == pytest.approx(5000, abs=700)
