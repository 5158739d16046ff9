"""Limits and samples: an output of some rows, none of which is paid for twice when all of them follow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import GenerateJob, run_job, run_partition
from airflow_mullama.errors import ConfigurationError, InputUnreadableError, OutputExistsError

DAYS = {"ds=1": 40, "ds=2": 10, "ds=3": 50}


@pytest.fixture
def lake(tmp_path: Path, write_parquet: Callable[..., Path]) -> Path:
    for day, rows in DAYS.items():
        write_parquet(tmp_path / "lake" / day / "a.parquet", [f"{day} {row}" for row in range(rows)])
    return tmp_path / "lake"


def job(**arguments: Any) -> GenerateJob:
    return GenerateJob(**{"model": "echo", "prompt_column": "text", "chunk_rows": 16, **arguments})


def texts(output: Path) -> list[str]:
    return [text for path in sorted(output.rglob("*.parquet")) for text in pq.read_table(path)["text"].to_pylist()]


def test_a_limit_is_of_all_partitions_together_and_of_their_first_rows(lake: Path, tmp_path: Path):
    manifest = run_job(job(limit=45), lake, tmp_path / "out")

    assert manifest.rows == 45
    assert texts(tmp_path / "out") == [*(f"ds=1 {row}" for row in range(40)), *(f"ds=2 {row}" for row in range(5))]
    assert not (tmp_path / "out" / "ds=3").exists()


def test_a_limit_opens_no_partition_that_it_does_not_need(lake: Path, tmp_path: Path):
    (lake / "ds=3" / "a.parquet").write_bytes(b"no Parquet")

    assert run_job(job(limit=50), lake, tmp_path / "out").rows == 50
    with pytest.raises(InputUnreadableError, match="ds=3"):
        run_job(job(limit=51), lake, tmp_path / "more")


def test_a_sample_is_drawn_from_all_partitions_in_order_and_the_same_each_time(lake: Path, tmp_path: Path):
    run_job(job(sample=30), lake, tmp_path / "one")
    run_job(job(sample=30), lake, tmp_path / "again")
    run_job(job(sample=30, sample_seed=1), lake, tmp_path / "other")

    drawn = texts(tmp_path / "one")
    assert len(set(drawn)) == 30
    assert {text.split()[0] for text in drawn} == set(DAYS)
    assert drawn == sorted(drawn, key=lambda text: (text.split()[0], int(text.split()[1])))
    assert texts(tmp_path / "again") == drawn
    assert texts(tmp_path / "other") != drawn


def test_a_store_that_hangs_while_rows_are_counted_keeps_no_process_from_ending():
    program = """
import threading
from airflow_mullama import GenerateJob
from airflow_mullama.errors import JobStoppedError
from airflow_mullama.run.chosen_rows import choose_rows
asked = threading.Event()
class Hanging:
    def open(self, *arguments):
        asked.set()
        threading.Event().wait()
try:
    choose_rows(GenerateJob(model="echo", prompt_column="text", sample=1), [Hanging()], asked.is_set)
except JobStoppedError:
    print("stopped", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.communicate(timeout=60)[0] == "stopped\n"
        finally:
            process.kill()


def test_a_sample_of_more_than_there_is_is_everything(lake: Path, tmp_path: Path):
    assert run_job(job(sample=1000), lake, tmp_path / "out").rows == 100


def test_the_rows_of_a_sample_are_not_asked_again_for_the_whole(lake: Path, tmp_path: Path):
    run_job(job(sample=30), lake, tmp_path / "sample")

    whole = run_job(job(reuse_from=str(tmp_path / "sample")), lake, tmp_path / "out")

    assert (whole.rows, whole.reused_rows, whole.computed_rows) == (100, 30, 70)
    assert pq.read_table(tmp_path / "out" / "ds=2")["response"].to_pylist() == [f"ds=2 {row}" for row in range(10)]


def test_at_the_same_place_the_whole_replaces_the_sample_and_keeps_its_rows(lake: Path, tmp_path: Path):
    run_job(job(limit=30), lake, tmp_path / "out")

    whole = run_job(job(), lake, tmp_path / "out")

    assert (whole.rows, whole.reused_rows) == (100, 30)


def test_a_sample_never_replaces_the_whole(lake: Path, tmp_path: Path):
    run_job(job(), lake, tmp_path / "out")

    with pytest.raises(OutputExistsError, match="has all rows of its input"):
        run_job(job(limit=5), lake, tmp_path / "out")

    assert len(texts(tmp_path / "out")) == 100


def test_the_sample_of_a_new_prompt_is_reused_over_the_output_of_the_old_one(lake: Path, tmp_path: Path):
    run_job(job(), lake, tmp_path / "out")
    new = {"prompt_column": None, "prompt_template": "say {text}"}
    run_job(job(sample=30, **new), lake, tmp_path / "sample")

    whole = run_job(job(reuse_from=str(tmp_path / "sample"), **new), lake, tmp_path / "out")

    assert (whole.reused_rows, whole.computed_rows) == (30, 70)


def test_a_place_without_a_sample_is_said_to_have_none(lake: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    run_job(job(reuse_from=str(tmp_path / "smaple")), lake, tmp_path / "out")

    assert "smaple has none of these partitions" in caplog.text


def test_a_sample_of_another_prompt_is_no_help(lake: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    run_job(job(limit=5), lake, tmp_path / "sample")

    other = job(prompt_column=None, prompt_template="say {text}", reuse_from=str(tmp_path / "sample"))
    whole = run_job(other, lake, tmp_path / "out")

    assert whole.computed_rows == 100
    assert "is reused: another prompt or model" in caplog.text


def test_a_sample_resumes_like_anything_else(lake: Path, tmp_path: Path):
    first = run_job(job(sample=30), lake, tmp_path / "out")
    second = run_job(job(sample=30), lake, tmp_path / "out")

    assert (first.skipped, second.skipped) == (None, "up_to_date")


def test_damaged_rows_keep_their_error_in_a_sample(tmp_path: Path):
    lines = [f'{{"text": "{row}"}}' if row % 3 else "damaged" for row in range(30)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")

    run_partition(job(sample=20, max_error_ratio=1.0), tmp_path / "in.jsonl", tmp_path / "out.parquet")

    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(rows) == 20
    assert all((row["text"] is None) == (row["error_type"] == "unreadable_row") for row in rows)
    assert any(row["text"] is None for row in rows)


def test_timestamps_of_spark_stay_what_they_are_in_a_sample(tmp_path: Path):
    import datetime

    first = datetime.datetime(2026, 1, 1)  # noqa: DTZ001 - Spark's have no zone
    times = [first + datetime.timedelta(days=day) for day in range(50)]
    table = pa.table({"text": [str(day) for day in range(50)], "at": times})
    pq.write_table(table, tmp_path / "in.parquet", use_deprecated_int96_timestamps=True)

    run_partition(job(sample=7), tmp_path / "in.parquet", tmp_path / "out.parquet")

    for row in pq.read_table(tmp_path / "out.parquet").to_pylist():
        assert row["at"] == times[int(row["text"])]


def test_an_input_without_rows_has_an_empty_sample(tmp_path: Path, write_parquet: Callable[..., Path]):
    source = write_parquet(tmp_path / "in.parquet", [])

    assert run_partition(job(sample=5), source, tmp_path / "out.parquet").rows == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"sample": "5"}, "sample is '5'"),
        ({"limit": 5, "sample": 5}, "give one of them"),
        ({"reuse_from": ""}, "reuse_from is ''"),
        ({"reuse_from": "s3://key:secret@bucket/x"}, "reuse_from"),
        ({"max_seconds": 0}, "max_seconds is 0"),
        ({"max_tokens_total": 1.5}, "max_tokens_total is 1.5"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any], sentence: str):
    with pytest.raises(ConfigurationError, match=sentence):
        job(**arguments)
