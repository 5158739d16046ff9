from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama.errors import InputNotFoundError, OutputNotWritableError
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.staging.commit import discard, publish_bytes, publish_file, writing


def test_a_published_file_replaces_what_was_there_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = local_location(str(tmp_path / "new" / "out"))
    for content in (b"first", b"second"):
        (tmp_path / "built").write_bytes(content)
        publish_file(str(tmp_path / "built"), target)
        assert Path(target.path).read_bytes() == content
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "out"]


def test_published_bytes_leave_nothing_beside_also_when_refused(tmp_path: Path) -> None:
    publish_bytes(local_location(str(tmp_path / "out")), b"content")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputNotWritableError):
        publish_bytes(local_location(str(tmp_path / "folder")), b"content")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "out"]


def test_a_reader_sees_one_whole_file_or_another_while_they_are_replaced(tmp_path: Path) -> None:
    target = local_location(str(tmp_path / "out"))
    contents = {bytes([letter]) * 300_000 for letter in b"ab"}
    publish_bytes(target, b"a" * 300_000)
    seen, over = set(), threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.add((tmp_path / "out").read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        for content in sorted(contents):
            (tmp_path / "built").write_bytes(content)
            publish_file(str(tmp_path / "built"), target)
    over.set()
    reader.join()
    assert seen
    assert seen <= contents


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: free space"),
        (PermissionError(errno.EACCES, "Permission denied"), "may not write there"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), "is a file and not a directory"),
        (OSError("AWS Error ACCESS_DENIED"), "ACCESS_DENIED: check output_path and the rights to write there"),
        (pa.ArrowInvalid("odd"), "Arrow refuses these rows (odd)"),
    ],
)
def test_a_refused_write_names_place_cause_and_remedy(tmp_path: Path, error: Exception, remedy: str) -> None:
    target = local_location(str(tmp_path / "out"))
    with pytest.raises(OutputNotWritableError) as caught, writing(target):
        raise error
    assert remedy in str(caught.value)
    assert target.url in str(caught.value)
    assert caught.value.__cause__ is error


def test_what_is_wrong_with_something_else_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="the input"), writing(local_location(str(tmp_path / "out"))):
        raise InputNotFoundError("the input is gone")


def test_discarding_what_is_not_there_is_fine(tmp_path: Path) -> None:
    discard(local_location(str(tmp_path / "missing")))


def test_an_object_appears_when_its_upload_ends(object_store: Any, tmp_path: Path) -> None:
    (tmp_path / "built").write_bytes(b"x" * 20_000_000)
    target = object_store.resolve(object_store.url("deep", "er", "out"))
    publish_file(str(tmp_path / "built"), target)
    assert target.info().size == 20_000_000
    assert (tmp_path / "built").exists()
    publish_bytes(target, b"small")
    with target.filesystem.open_input_stream(target.path) as stream:
        assert stream.read() == b"small"
    discard(target.parent)
    assert object_store.objects(object_store.url("deep")) == []
