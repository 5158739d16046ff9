"""Data files that no commit names: which of them are removed, and which are left alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from airflow_mullama.errors import OutputNotWritableError
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.tables.unpublished import ABANDONED_SECONDS, FOLDER, MOST_NOTE_BYTES, UnpublishedFiles

NAMES = ("mullama-a.parquet", "mullama-b.parquet", "mullama-c.parquet")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table in which three data files were announced: of our work, of ours and committed, and of other work."""
    table = tmp_path / "table"
    (table / "ds=1").mkdir(parents=True)
    notes = unpublished(table)
    for name, fingerprint in zip(NAMES, ("ours", "ours", "other"), strict=True):
        notes.announce(local_location(str(table / "ds=1" / name)), fingerprint)
        (table / "ds=1" / name).write_text("rows")
    return table


def unpublished(table: Path) -> UnpublishedFiles:
    return UnpublishedFiles(local_location(str(table)), "ds=1")


def left(table: Path) -> list[str]:
    return sorted(path.name for path in (table / "ds=1").iterdir())


def notes_of(table: Path) -> list[Path]:
    return sorted((table / FOLDER).rglob("*.json"))


def test_before_anything_is_published_only_committed_files_are_settled(table: Path) -> None:
    unpublished(table).tidy({str(table / "ds=1" / NAMES[1])}, None)
    assert left(table) == list(NAMES)
    assert [path.name for path in notes_of(table)] == [f"{NAMES[0]}.json", f"{NAMES[2]}.json"]


def test_when_the_same_work_is_published_what_it_left_is_removed(table: Path) -> None:
    unpublished(table).tidy({str(table / "ds=1" / NAMES[1])}, "ours")
    assert left(table) == list(NAMES[1:])
    assert [path.name for path in notes_of(table)] == [f"{NAMES[2]}.json"]


def test_what_nobody_can_commit_any_more_is_removed(table: Path) -> None:
    for note in notes_of(table):
        before = note.stat().st_mtime - ABANDONED_SECONDS - 1
        os.utime(note, (before, before))
    unpublished(table).tidy({str(table / "ds=1" / NAMES[1])}, None)
    assert left(table) == [NAMES[1]]
    assert not (table / FOLDER).exists()


def test_a_note_is_not_believed_further_than_our_own_files(table: Path, tmp_path: Path) -> None:
    outside, theirs = tmp_path / "mullama-x.parquet", table / "ds=1" / "part-0.parquet"
    (tmp_path / "elsewhere").mkdir()
    (table / "link").symlink_to(tmp_path / "elsewhere")
    behind = tmp_path / "elsewhere" / "mullama-y.parquet"
    for path in (outside, theirs, behind):
        path.write_text("not ours")
    named = [outside, theirs, table / ".." / "mullama-x.parquet", table / "link" / "mullama-y.parquet"]
    for number, path in enumerate(named):
        note = {"path": str(path), "fingerprint": "ours"}
        (table / FOLDER / "ds=1" / f"{number}.json").write_text(json.dumps(note))
    (table / FOLDER / "ds=1" / "damaged.json").write_text("{")
    unpublished(table).tidy(set(), "ours")
    assert all(path.exists() for path in (outside, theirs, behind))


def test_nothing_is_noted_behind_a_link(table: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / FOLDER).symlink_to(table / FOLDER)
    with pytest.raises(OutputNotWritableError, match="is a link"):
        unpublished(tmp_path / "other").announce(local_location(str(tmp_path / "other" / "mullama-z.parquet")), "ours")
    unpublished(tmp_path / "other").tidy(set(), "ours")
    assert left(table) == list(NAMES)


@pytest.mark.parametrize("content", ["[" * 50_000, " " * (MOST_NOTE_BYTES + 1) + "{}", '{"path": 1}', "\0"])
def test_a_note_that_is_none_is_left_alone(table: Path, content: str) -> None:
    forged = notes_of(table)[0].with_name("forged.json")
    forged.write_text(content)
    unpublished(table).tidy(set(), "ours")
    assert forged.exists()
    assert left(table) == [NAMES[2]]
