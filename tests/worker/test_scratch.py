"""The folder of a worker: private, with a short path, and gone at last whoever was killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_mullama.errors import StorageUnavailableError
from airflow_mullama.worker import scratch
from airflow_mullama.worker.scratch import LONGEST_DIRECTORY, PREFIX, ScratchFolder

HOLDER = """
import sys
from airflow_mullama.worker.scratch import ScratchFolder
folder = ScratchFolder()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="t") as name:  # pytest's own folders have names too long
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


def hold(root: Path) -> tuple[subprocess.Popen[str], Path]:
    environment = {**os.environ, "TMPDIR": str(root), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_is_private_and_removed_once(root: Path) -> None:
    folder = ScratchFolder()
    assert Path(folder.path).parent == root
    assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700
    Path(folder.path, "engine.sock").touch()
    folder.remove()
    folder.remove()
    assert list(root.iterdir()) == []


def test_the_next_worker_removes_what_killed_ones_left_and_nothing_else(root: Path) -> None:
    others = [root / "airflow-mullama-gpus", root / f"{PREFIX}file"]
    others[0].mkdir()
    others[1].touch()
    (root / f"{PREFIX}link").symlink_to(others[0])
    alive, kept = hold(root)
    killed, left = hold(root)
    with alive, killed:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.is_dir()
        mine = ScratchFolder()
        assert not left.exists()
        assert set(root.iterdir()) == {*others, root / f"{PREFIX}link", kept, Path(mine.path)}
        mine.remove()
        alive.kill()


def test_many_workers_that_begin_and_end_at_once_leave_each_other_alone(root: Path) -> None:
    failures = []

    def use() -> None:
        for _ in range(30):
            folder = ScratchFolder()
            try:
                Path(folder.path, "engine.sock").touch()
            except OSError as error:
                failures.append(error)
            folder.remove()

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(root.iterdir()) == []


def test_a_long_temporary_directory_is_passed_over(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = root / ("x" * (LONGEST_DIRECTORY - len(str(root)) - 1))
    long = root / (fits.name + "x")
    for folder, place in ((fits, fits), (long, Path(scratch.SHORT_DIRECTORY))):
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        made = ScratchFolder()
        assert Path(made.path).parent == place
        assert len(made.path) + len("/engine.sock") <= scratch.LONGEST_SOCKET_PATH
        made.remove()


def test_no_place_at_all_is_said_with_the_remedy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(root / "nowhere"))
    with pytest.raises(StorageUnavailableError, match=r"nowhere.*set TMPDIR"):
        ScratchFolder()
