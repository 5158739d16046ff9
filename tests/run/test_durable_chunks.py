from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.errors import JobStoppedError
from airflow_mullama.run.durable_chunks import DurableChunks
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.staging.stage import Chunk, ChunkPlan, Stage

SCHEMA = pa.schema([pa.field("row", pa.int64(), nullable=False), ("response", pa.string())])
CHUNKS = ChunkPlan(60, 10)


def table_of(chunk: Chunk) -> pa.Table:
    rows = list(range(chunk.start, chunk.stop))
    return pa.table([rows, [f"answer {row}" for row in rows]], schema=SCHEMA)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """One that holds every chunk."""
    stage = Stage(local_location(str(tmp_path_factory.mktemp("stage") / "out.parquet")), "f" * 64, SCHEMA)
    stage.open()
    for chunk in CHUNKS:
        stage.write(chunk, table_of(chunk))
    return stage


class Reading:
    """What a thread takes out of chunks."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self.rows: list[int] = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            for table in self._tables:
                self.rows.extend(table.column("row").to_pylist())
        except JobStoppedError as error:
            self.error = error

    def end(self) -> None:
        self.thread.join(30)
        assert not self.thread.is_alive()


@given(order=st.permutations(range(len(CHUNKS))), kept=st.integers(0, 6))
def test_chunks_come_in_order_whatever_order_they_become_durable_in(order: list[int], kept: int, stage: Stage) -> None:
    durable = DurableChunks(CHUNKS, stage, kept_bytes=kept * table_of(CHUNKS[0]).nbytes)
    reading = Reading(durable.tables())
    for number in order:
        durable.put(CHUNKS[number], table_of(CHUNKS[number]))
    durable.finish()
    reading.end()
    assert reading.rows == list(range(60))


def test_the_end_is_waited_for_though_every_chunk_is_there(stage: Stage) -> None:
    durable = DurableChunks(ChunkPlan(10, 10), stage)
    reading = Reading(durable.tables())
    durable.put(CHUNKS[0], table_of(CHUNKS[0]))
    reading.thread.join(0.2)
    assert reading.thread.is_alive()
    durable.finish()
    reading.end()
    assert reading.rows == list(range(10))


def test_what_is_kept_at_hand_is_bounded_and_the_rest_comes_from_the_stage(stage: Stage) -> None:
    durable = DurableChunks(CHUNKS, stage, kept_bytes=table_of(CHUNKS[1]).nbytes)
    for chunk in reversed(CHUNKS):
        durable.put(chunk, table_of(chunk).set_column(1, "response", pa.array(["at hand"] * chunk.rows)))
    durable.finish()
    tables = list(durable.tables())
    at_hand = [table.column("response")[0].as_py() == "at hand" for table in tables]
    assert at_hand == [False] * 5 + [True]


def test_tables_end_where_a_chunk_has_vanished_from_the_stage(tmp_path: Path) -> None:
    empty = Stage(local_location(str(tmp_path / "out.parquet")), "f" * 64, SCHEMA)
    durable = DurableChunks(CHUNKS, empty, kept_bytes=0)
    for chunk in CHUNKS:
        durable.put(chunk, table_of(chunk))
    durable.finish()
    assert list(durable.tables()) == []


@pytest.mark.parametrize("begun", [False, True])
def test_who_waits_is_sent_away_when_nothing_will_be_published(stage: Stage, begun: bool) -> None:
    durable = DurableChunks(CHUNKS, stage)
    reading = Reading(durable.tables())
    if begun:
        durable.put(CHUNKS[0], table_of(CHUNKS[0]))
    durable.abandon()
    reading.end()
    assert reading.error is not None
    with pytest.raises(JobStoppedError):
        durable.wait_for_first()


def test_the_first_chunk_or_the_end_is_worth_beginning(stage: Stage) -> None:
    durable = DurableChunks(CHUNKS, stage)
    begun = threading.Event()
    threading.Thread(target=lambda: (durable.wait_for_first(), begun.set()), daemon=True).start()
    durable.put(CHUNKS[1], table_of(CHUNKS[1]))
    assert not begun.wait(0.2)
    durable.put(CHUNKS[0], table_of(CHUNKS[0]))
    assert begun.wait(30)
    nothing = DurableChunks([], stage)
    nothing.finish()
    nothing.wait_for_first()
