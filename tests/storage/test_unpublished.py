from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_mullama.storage.unpublished import LEFT_BEHIND_SECONDS, new_name, remove_left_behind, unpublished_file


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


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
    with unpublished_file(str(path), 0o600):
        path.write_bytes(b"whole")
        path.rename(tmp_path / "published")
    assert (tmp_path / "published").read_bytes() == b"whole"


def test_what_a_killed_process_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from airflow_mullama.storage.unpublished import unpublished_file\n"
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
        age(path, LEFT_BEHIND_SECONDS + 1)
        remove_left_behind(str(tmp_path))
        assert path.exists()
    remove_left_behind(str(tmp_path))
    assert not path.exists()


def test_a_young_file_and_files_of_others_are_left_alone(tmp_path: Path) -> None:
    young, foreign = tmp_path / new_name(), tmp_path / "rows-0.arrow"
    young.touch()
    foreign.touch()
    age(foreign, LEFT_BEHIND_SECONDS + 1)
    (tmp_path / new_name()).symlink_to(foreign)
    remove_left_behind(str(tmp_path))
    assert young.exists()
    assert foreign.exists()


def test_a_folder_that_is_not_there_has_nothing_left_behind(tmp_path: Path) -> None:
    remove_left_behind(str(tmp_path / "none"))
