from __future__ import annotations

import os
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.errors import OutputNotWritableError
from airflow_mullama.rows import generation_columns
from airflow_mullama.run.outcome_rows import chunk_schema
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.staging.stage import CHECKSUM, SUSPECTS_NAME, Chunk, ChunkPlan, Stage

SCHEMA = chunk_schema(generation_columns())
CHUNK = Chunk(1, 10, 20)


def outcomes(rows: list[int]) -> pa.Table:
    values = [{"row": row, "response": f"r{row}", "status": "success", "attempts": 1} for row in rows]
    return pa.Table.from_pylist(values, SCHEMA)


def open_stage(folder: Path, fingerprint: str = "f" * 64) -> Stage:
    stage = Stage(local_location(str(folder / "out.parquet")), fingerprint, SCHEMA)
    stage.open()
    return stage


def staged_file(folder: Path) -> Path:
    (file,) = folder.rglob("rows-*.arrow")
    return file


@given(st.integers(0, 500), st.integers(1, 60))
def test_chunks_cover_every_row_once_in_order(rows: int, chunk_rows: int) -> None:
    chunks = ChunkPlan(rows, chunk_rows)
    assert [row for chunk in chunks for row in range(chunk.start, chunk.stop)] == list(range(rows))
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert all(chunk.start == chunk.index * chunk_rows and 0 < chunk.rows <= chunk_rows for chunk in chunks)


@pytest.mark.parametrize("rows", [list(range(10, 20)), [10], [13, 19], []])
def test_a_whole_or_partial_chunk_comes_back_as_it_was(tmp_path: Path, rows: list[int]) -> None:
    stage = open_stage(tmp_path)
    stage.write(CHUNK, outcomes(rows))
    again = open_stage(tmp_path)
    assert list(again.staged()) == [(10, 20)]
    read = again.read(CHUNK)
    assert read is not None
    assert read.to_pylist() == outcomes(rows).to_pylist()


def test_what_is_not_staged_is_none(tmp_path: Path) -> None:
    stage = open_stage(tmp_path)
    assert stage.staged() == {}
    assert stage.read(CHUNK) is None


@pytest.mark.parametrize("damage", ["empty", "torn", "flipped", "garbage"])
def test_a_damaged_chunk_is_not_trusted_and_not_fatal(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = open_stage(tmp_path)
    stage.write(CHUNK, outcomes(list(range(10, 20))))
    file = staged_file(tmp_path)
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    replacement = {"empty": b"", "torn": content[:-7], "flipped": content, "garbage": b"x" * 500}[damage]
    file.write_bytes(replacement)
    assert stage.read(CHUNK) is None
    assert "damaged" in caplog.text
    assert str(file) in caplog.text


def test_a_chunk_of_another_fingerprint_is_not_trusted_even_in_this_ones_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_stage(tmp_path, "a" * 16 + "1").write(CHUNK, outcomes([10]))
    stage = open_stage(tmp_path, "a" * 16 + "2")
    assert stage.read(CHUNK) is None
    assert "belongs to other input, model or settings" in caplog.text


def test_a_chunk_with_rows_of_another_is_not_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = open_stage(tmp_path)
    for rows in ([9, 10], [19, 20], [11, 10], [10, 10]):
        stage.write(CHUNK, outcomes(rows))
        assert stage.read(CHUNK) is None
    assert caplog.text.count("other rows or columns") == 4


def test_a_stage_of_another_fingerprint_is_left_alone_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_stage(tmp_path, "a" * 64).write(CHUNK, outcomes([10]))
    assert open_stage(tmp_path, "b" * 64).staged() == {}
    assert "are not used" in caplog.text
    assert open_stage(tmp_path, "a" * 64).read(CHUNK) is not None


def test_removing_takes_every_stage_of_the_output_and_no_other(tmp_path: Path) -> None:
    other = Stage(local_location(str(tmp_path / "other.parquet")), "f" * 64, SCHEMA)
    other.open()
    open_stage(tmp_path, "a" * 64).write(CHUNK, outcomes([10]))
    stage = open_stage(tmp_path, "b" * 64)
    stage.remove()
    assert open_stage(tmp_path, "a" * 64).staged() == {}
    assert {path.name for path in (tmp_path / "_mullama_stage").iterdir()} == {"out.parquet", "other.parquet"}
    open_stage(tmp_path).remove()
    other.remove()
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_chunks_are_passed_over(tmp_path: Path) -> None:
    stage = open_stage(tmp_path)
    stage.write(CHUNK, outcomes([10]))
    folder = staged_file(tmp_path).parent
    for name in ("rows-x-y.arrow", "rows-1.arrow", "rows-10-xx.arrow", "rows-1-2.arrow.tmp", ".DS_Store"):
        (folder / name).write_bytes(b"")
    assert list(stage.staged()) == [(10, 20)]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    stage = Stage(local_location(str(tmp_path / "file" / "out.parquet")), "f" * 64, SCHEMA)
    with pytest.raises(OutputNotWritableError, match="a part of the path is a file"):
        stage.open()


def test_a_plan_of_more_rows_than_there_can_be_is_no_list() -> None:
    chunks = ChunkPlan(2**62, 1000)
    assert len(chunks) == -(-(2**62) // 1000)
    assert chunks[len(chunks) - 1].stop == 2**62
    assert next(iter(chunks)) == Chunk(0, 0, 1000)


@pytest.mark.parametrize("kind", ["pipe", "link", "directory"])
def test_a_chunk_that_is_no_file_is_not_waited_for_and_not_followed(tmp_path: Path, kind: str) -> None:
    stage = open_stage(tmp_path)
    stage.write(CHUNK, outcomes([10]))
    file = staged_file(tmp_path)
    moved = file.rename(tmp_path / "moved.arrow")
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to(moved)
    else:
        file.mkdir()
    assert stage.read(CHUNK) is None
    if kind != "link":  # of which the listing knows nothing
        assert stage.staged() == {}


@pytest.mark.parametrize("content", ["[" * 100_000, " " * (1 << 20) + "{}", "[1]", '{"a": 1}'])
def test_suspects_that_cannot_be_read_are_nobody(tmp_path: Path, content: str) -> None:
    stage = open_stage(tmp_path)
    stage.remember_suspects({3: 1})
    assert stage.suspects() == {3: 1}
    (file,) = tmp_path.rglob(SUSPECTS_NAME)
    file.write_text(content)
    assert open_stage(tmp_path).suspects() == {}


def test_a_forged_chunk_is_computed_again(tmp_path: Path) -> None:
    stage = open_stage(tmp_path)
    stage.write(CHUNK, outcomes([10, 11]))
    file = staged_file(tmp_path)
    sound = file.read_bytes()[CHECKSUM.size :]
    for body in (b"no table", sound[: len(sound) // 2], sound[:40] + b"\xff" * 80 + sound[120:]):
        file.write_bytes(CHECKSUM.pack(len(body), zlib.crc32(body)) + body)
        assert open_stage(tmp_path).read(CHUNK) is None
