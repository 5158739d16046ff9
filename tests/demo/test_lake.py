from __future__ import annotations

import datetime
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from airflow_mullama import list_partitions
from airflow_mullama.demo.lake import (
    FIRST_DAY,
    LONG_TEXT_BYTES,
    MARKER_NAME,
    SCHEMA,
    LakeError,
    LakeSummary,
    write_lake,
)

ROWS = 700

# First and last character: Hangul, Arabic, Devanagari, Chinese, Cyrillic, emoji.
BLOCKS = (
    "\uac00\ud7a3",
    "\u0600\u06ff",
    "\u0900\u097f",
    "\u4e00\u9fff",
    "\u0400\u04ff",
    "\U0001f300\U0001faff",
)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> LakeSummary:
    return write_lake(tmp_path_factory.mktemp("lake") / "tickets", rows=ROWS)


def rows_of(lake: LakeSummary) -> list[dict[str, Any]]:
    return [
        row for path in sorted(lake.directory.rglob("*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()
    ]


def state_of(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(directory).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_days_are_hive_partitions(lake: LakeSummary) -> None:
    days = [FIRST_DAY + datetime.timedelta(days=number) for number in range(7)]
    assert sorted(path.name for path in lake.directory.iterdir() if path.is_dir()) == [f"ds={day}" for day in days]
    assert lake.partitions == len(list_partitions(lake.directory, lake.directory.parent / "out")) == 7
    files = sorted(lake.directory.rglob("*.parquet"))
    assert len(files) == lake.files == 9
    assert sum(path.stat().st_size for path in files) == lake.bytes
    assert all(pq.read_schema(path).equals(SCHEMA) for path in files)
    table = pads.dataset(lake.directory, partitioning="hive").to_table()
    assert table.num_rows == lake.rows == ROWS
    for row in table.to_pylist():
        assert row["ds"] == str(row["created_at"].date())


def test_it_is_as_dirty_as_it_says(lake: LakeSummary) -> None:
    rows = rows_of(lake)
    texts = [row["text"] for row in rows]
    assert texts.count(None) == lake.nulls >= 7
    assert texts.count("") == lake.empty >= 7
    copies = Counter((row["ticket_id"], row["created_at"], row["channel"], row["text"]) for row in rows)
    assert sum(count - 1 for count in copies.values()) == lake.repeated >= 7
    long = [text for text in texts if text and len(text.encode()) == LONG_TEXT_BYTES]
    assert len(long) == 1
    assert lake.longest_text_bytes == LONG_TEXT_BYTES == 102_400
    assert None in {row["channel"] for row in rows}
    everything = "".join(text for text in texts if text)
    for first, last in BLOCKS:
        assert any(first <= character <= last for character in everything), f"nothing from {first} to {last}"
    assert lake.other_scripts >= 7
    assert lake.odd >= 7


def test_most_of_it_is_ordinary(lake: LakeSummary) -> None:
    dirty = lake.nulls + lake.empty + lake.other_scripts + lake.odd + lake.repeated
    assert dirty < 0.1 * ROWS
    assert len({row["text"] for row in rows_of(lake)}) > 0.85 * ROWS


def test_the_same_seed_gives_the_same_rows(tmp_path: Path, lake: LakeSummary) -> None:
    again = write_lake(tmp_path / "again", rows=ROWS)
    assert rows_of(again) == rows_of(lake)
    other = write_lake(tmp_path / "other", rows=ROWS, seed=5)
    assert rows_of(other) != rows_of(lake)


def test_a_whole_lake_is_left_as_it_is(tmp_path: Path) -> None:
    first = write_lake(tmp_path / "tickets", rows=140)
    before = state_of(first.directory)
    second = write_lake(tmp_path / "tickets", rows=140)
    assert (first.written, second.written) == (True, False)
    assert state_of(first.directory) == before
    assert second == LakeSummary(**{**vars(first), "written": False})


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "no marker", "other rows"])
def test_a_damaged_lake_is_written_anew(tmp_path: Path, damage: str) -> None:
    lake = write_lake(tmp_path / "tickets", rows=140)
    before = rows_of(lake)
    file = sorted(lake.directory.rglob("*.parquet"))[3]
    if damage == "changed":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "missing":
        file.unlink()
    elif damage == "added":
        pq.write_table(pa.table({"text": ["x"]}), file.with_name("part-00007.parquet"))
    elif damage == "no marker":
        (lake.directory / MARKER_NAME).write_text("{")
    else:
        write_lake(tmp_path / "tickets", rows=141)
    mended = write_lake(tmp_path / "tickets", rows=140)
    assert mended.written
    assert rows_of(mended) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tickets"]


def test_what_others_wrote_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "tickets").mkdir()
    (tmp_path / "tickets" / "notes.txt").write_text("mine")
    with pytest.raises(LakeError, match="did not write"):
        write_lake(tmp_path / "tickets")
    assert (tmp_path / "tickets" / "notes.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LakeError, match="cannot be written"):
        write_lake(tmp_path / "file" / "tickets")


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 140"):
        write_lake(tmp_path / "tickets", rows=10)
