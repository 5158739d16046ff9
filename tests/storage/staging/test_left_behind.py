"""What abandoned runs left beside outputs, and what is still somebody's."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from airflow_mullama.storage.filesystems import resolve_location
from airflow_mullama.storage.staging.left_behind import ABANDONED_DAYS, remove_beside

DAY_SECONDS = 86_400


def left(folder: Path, days_ago: float, chunk_days_ago: float | None = None) -> Path:
    """A stage that was last written to so long ago."""
    stage = folder / "0123456789abcdef"
    stage.mkdir(parents=True)
    (stage / "rows-000-010.arrow").write_bytes(b"rows")
    for path, days in ((stage, chunk_days_ago if chunk_days_ago is not None else days_ago), (folder, days_ago)):
        at = time.time() - days * DAY_SECONDS
        os.utime(path, (at, at))
    return folder


def publish(output: Path) -> None:
    """What a run does last."""
    folder = resolve_location(output.parent)
    remove_beside(folder, folder.join("_mullama_stage", output.name))


def test_an_outputs_own_folder_goes_and_the_common_one_with_the_last(tmp_path: Path) -> None:
    left(tmp_path / "_mullama_stage" / "a.parquet", 0)
    left(tmp_path / "_mullama_stage" / "b.parquet", 0)
    publish(tmp_path / "a.parquet")
    assert [path.name for path in (tmp_path / "_mullama_stage").iterdir()] == ["b.parquet"]
    publish(tmp_path / "b.parquet")
    assert list(tmp_path.iterdir()) == []


def test_that_of_another_output_goes_when_nobody_has_written_to_it_for_long(tmp_path: Path) -> None:
    stages = tmp_path / "_mullama_stage"
    left(stages / "forgotten.parquet", ABANDONED_DAYS + 1)
    left(stages / "of_last_week.parquet", 7)
    left(stages / "resumed.parquet", ABANDONED_DAYS + 1, chunk_days_ago=0)
    publish(tmp_path / "a.parquet")
    assert sorted(path.name for path in stages.iterdir()) == ["of_last_week.parquet", "resumed.parquet"]


def test_nothing_goes_through_a_link(tmp_path: Path) -> None:
    theirs = left(tmp_path / "theirs" / "a.parquet", ABANDONED_DAYS + 1)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "_mullama_stage").symlink_to(theirs.parent)
    publish(tmp_path / "one" / "a.parquet")
    stages = tmp_path / "two" / "_mullama_stage"
    stages.mkdir(parents=True)
    (stages / "forgotten.parquet").symlink_to(theirs)
    publish(tmp_path / "two" / "b.parquet")
    assert len(list(theirs.rglob("*.arrow"))) == 1


@pytest.mark.parametrize("missing", ["the folder", "all of it"])
def test_what_is_not_there_is_no_error(tmp_path: Path, missing: str) -> None:
    if missing == "the folder":
        (tmp_path / "_mullama_stage").mkdir()
    publish(tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []
