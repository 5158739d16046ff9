"""Rows name files below a root, and no others are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from airflow_mullama.byte_bounds import MIB
from airflow_mullama.errors import InputNotFoundError
from airflow_mullama.storage.filesystems import resolve_location
from airflow_mullama.storage.picture_files import PictureFiles, Unread, shown_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "cats").mkdir(parents=True)
    (folder / "cats" / "a b.png").write_bytes(b"cat")
    (folder / "dog.png").write_bytes(b"dog")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "root-of-another").mkdir()
    (tmp_path / "root-of-another" / "x.png").write_bytes(b"secret")
    return folder


def read(root: Path, path: str) -> bytes | Unread:
    (content,) = PictureFiles(resolve_location(root), 10 * MIB).read([path])
    return content


def test_paths_begin_at_the_root(root: Path) -> None:
    files = PictureFiles(resolve_location(root), 10 * MIB)
    paths = ["dog.png", "cats/a b.png", "./cats/../dog.png", f"{root}/dog.png", (root / "cats" / "a b.png").as_uri()]
    assert files.sizes(paths) == [3] * 5
    assert files.read(paths) == [b"dog", b"cat", b"dog", b"dog", b"cat"]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "cats/../../secret.png",
        "..",
        ".",
        "/etc/passwd",
        "file:///etc/passwd",
        "{parent}/secret.png",
        "{parent}/root-of-another/x.png",
        "{parent}/root/../secret.png",
        "{parent}/root",
        "s3://bucket/dog.png",
        "https://example.com/dog.png",
    ],
)
def test_a_path_that_leads_elsewhere_is_not_read(root: Path, path: str) -> None:
    content = read(root, path.replace("{parent}", str(root.parent)))
    assert isinstance(content, Unread)
    assert not content.may_pass
    assert "leads out of" in content.reason
    assert "image_root" in content.reason


def test_neither_is_a_link_that_does(root: Path) -> None:
    (root / "link.png").symlink_to(root.parent / "secret.png")
    (root / "folder").symlink_to(root.parent)
    (root / "inside.png").symlink_to("dog.png")
    for path in ("link.png", "folder/secret.png"):
        content = read(root, path)
        assert isinstance(content, Unread)
        assert "is a link that leads out of" in content.reason
    assert read(root, "inside.png") == b"dog"
    (root.parent / "way").symlink_to(root)
    assert read(root.parent / "way", "dog.png") == b"dog"
    assert read(root.parent / "way", str(root / "dog.png")) == b"dog"


@pytest.mark.parametrize(
    ("path", "reason", "may_pass"),
    [
        ("bird.png", "is not there", True),
        ("dog.png/x", "", True),
        ("cats", "is no file", False),
        ("pipe", "is no file", False),
        ("heavy.png", "has 2.0 MiB, and 1 MiB is the most", False),
        ("", "names no file", False),
        (" ", "names no file", False),
        ("a\x00b", "names no file", False),
        ("x" * 5000, "names no file", False),
        ("\udc80.png", "names no file", False),
        ("file://elsewhere/dog.png", "names no file", False),
    ],
)
def test_what_cannot_be_read_says_why_and_whether_that_may_pass(
    root: Path, path: str, reason: str, may_pass: bool
) -> None:
    os.mkfifo(root / "pipe")
    (root / "heavy.png").write_bytes(b"x" * 2 * MIB)
    files = PictureFiles(resolve_location(root), MIB)
    (content,) = files.read([path])
    assert isinstance(content, Unread)
    assert reason in content.reason
    assert content.may_pass is may_pass
    assert files.sizes([path]) == [0]


def test_a_root_that_is_not_there_is_known_before_a_row_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"image_root is .*nowhere.*no such folder"):
        PictureFiles(resolve_location(tmp_path / "nowhere"), MIB)


def test_objects_of_a_store_are_read_in_the_order_of_their_paths(object_store: Any) -> None:
    prefix = f"{object_store.bucket}/pics"
    for number in range(20):
        with object_store.filesystem.open_output_stream(f"{prefix}/{number}.png") as stream:
            stream.write(b"%d" % number)
    with object_store.filesystem.open_output_stream(f"{object_store.bucket}/secret.png") as stream:
        stream.write(b"secret")
    files = PictureFiles(object_store.resolve(object_store.url("pics")), MIB)
    urls = [object_store.url("pics", f"{number}.png") for number in range(10)]
    paths = [*urls, *(f"{number}.png" for number in range(10, 20))]
    assert files.sizes(paths) == [1] * 10 + [2] * 10
    assert files.read(paths) == [b"%d" % number for number in range(20)]
    other, missing = files.read([object_store.url("secret.png"), "nothing.png"])
    assert isinstance(other, Unread)
    assert not other.may_pass
    assert isinstance(missing, Unread)
    assert missing.may_pass
    whole = PictureFiles(object_store.resolve(object_store.url()), MIB)
    assert whole.read(["secret.png", object_store.url("secret.png")]) == [b"secret", b"secret"]


def test_what_may_be_secret_of_a_url_is_not_shown() -> None:
    assert shown_path("https://host/a.png?sig=secret") == "https://host/a.png"
    assert shown_path("a?b.png") == "a?b.png"
