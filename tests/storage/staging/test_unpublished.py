from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_mullama.storage.staging.unpublished import SUFFIX, new_name, remove_left_behind, unpublished_file


def test_a_file_is_removed_at_the_end_whatever_ends_it(tmp_path: Path) -> None:
    path = tmp_path / new_name()
    modes = []

    def fail() -> None:
        with unpublished_file(str(path), 0o600):
            modes.append(path.stat().st_mode & 0o777)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert modes == [0o600]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_published_under_another_name_stays(tmp_path: Path) -> None:
    path = tmp_path / new_name()
    with unpublished_file(str(path), 0o600) as file:
        file.write(b"whole")
        path.rename(tmp_path / "published")
    assert [entry.name for entry in tmp_path.iterdir()] == ["published"]
    assert (tmp_path / "published").read_bytes() == b"whole"


def test_what_a_killed_process_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from airflow_mullama.storage.staging.unpublished import unpublished_file\n"
        "with unpublished_file(sys.argv[1], 0o600):\n"
        "    print('holding', flush=True)\n"
        "    sys.stdin.read()\n"
        "    os._exit(9)\n"  # as if it were killed
    )
    path = tmp_path / new_name()
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holding\n"
        remove_left_behind(str(tmp_path))
        assert path.exists()
    remove_left_behind(str(tmp_path))
    assert not path.exists()


def test_files_of_other_hosts_and_other_kinds_are_left_alone(tmp_path: Path) -> None:
    others = tmp_path / f"output-not-{platform.node()}-17-abcdef01{SUFFIX}"
    unlocked, foreign = tmp_path / new_name().replace(SUFFIX, ".mullama-new"), tmp_path / "rows-0.arrow"
    for path in (others, unlocked, foreign):
        path.touch()
    (tmp_path / new_name()).symlink_to(foreign)
    remove_left_behind(str(tmp_path))
    assert others.exists()
    assert unlocked.exists()
    assert foreign.exists()


def test_a_file_is_held_from_the_moment_it_can_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    rename = os.rename

    def rename_while_another_looks(old: str, new: str) -> None:
        remove_left_behind(str(tmp_path))
        rename(old, new)
        remove_left_behind(str(tmp_path))
        seen.append(new)

    monkeypatch.setattr("airflow_mullama.storage.staging.unpublished.os.rename", rename_while_another_looks)
    path = tmp_path / new_name()
    with unpublished_file(str(path), 0o600):
        assert path.exists()
    assert seen == [str(path)]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_has_nothing_left_behind(tmp_path: Path) -> None:
    remove_left_behind(str(tmp_path / "none"))
