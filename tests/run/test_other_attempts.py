"""Two attempts of one partition at the same time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.errors import StageVanishedError
from airflow_mullama.run import run_partition
from airflow_mullama.run.other_attempts import OtherAttempts
from airflow_mullama.storage.filesystems import resolve_location
from airflow_mullama.storage.staging.stage import Chunk, Stage

ROWS, CHUNK_ROWS = 60, 10
SCHEMA = pa.schema([("row", pa.int64())])


def test_chunks_of_another_attempt_are_noticed_once_and_its_output_ends_this_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = resolve_location(tmp_path / "out.parquet")
    stage = Stage(output, "f" * 64, SCHEMA)
    stage.open()
    earlier, *later = [Chunk(index, 10 * index, 10 * index + 10) for index in range(4)]
    rows = pa.table({"row": pa.array([], pa.int64())})
    stage.write(earlier, rows)  # an attempt that has ended
    published = False
    others = OtherAttempts(stage, output, lambda: published)
    with caplog.at_level(logging.WARNING):
        for chunk in (earlier, later[0]):
            others.look(chunk)
            stage.write(chunk, rows)
        assert caplog.records == []
        for chunk in later[1:]:
            stage.write(chunk, rows)  # by somebody else
            others.look(chunk)
    (record,) = caplog.records
    assert "out.parquet at the same time (it has made rows 20 to 29 durable)" in record.getMessage()
    published = True
    with pytest.raises(StageVanishedError, match=r"Another attempt has published .*out\.parquet"):
        others.look(earlier)


def test_an_attempt_that_is_overtaken_says_what_it_computed(
    echo_job: Callable[..., Any],
    tmp_path: Path,
    write_parquet: Callable[..., Path],
    texts: Callable[..., list[str]],
    recorder: Any,
) -> None:
    source, output = write_parquet(tmp_path / "in.parquet", texts(ROWS)), tmp_path / "out.parquet"
    ahead: list[Any] = []

    def overtake(snapshot: Any) -> None:
        if snapshot.done > CHUNK_ROWS and not ahead:
            ahead.append(run_partition(echo_job(chunk_rows=CHUNK_ROWS), source, output, listeners=[]))

    job = echo_job(delay_s=0.01, n_parallel=1, chunk_rows=CHUNK_ROWS)
    behind = run_partition(job, source, output, listeners=[recorder(overtake)])
    assert ahead[0].computed_rows + ahead[0].resumed_rows == ROWS
    assert (behind.skipped, behind.rows) == ("up_to_date", ROWS)
    assert CHUNK_ROWS < behind.computed_rows <= ROWS
    assert pq.read_table(output)["response"].to_pylist() == pq.read_table(source)["text"].to_pylist()
    assert list(tmp_path.glob("_mullama_stage")) == []
