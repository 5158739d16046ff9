"""A file goes in the place of what was there, or nowhere."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs as pafs
import pytest

from airflow_mullama import fail_points
from airflow_mullama.errors import (
    OutputChangedError,
    OutputNotWritableError,
    StageVanishedError,
    StorageUnavailableError,
)
from airflow_mullama.storage.filesystems import Location, fsspec_filesystem, local_location, resolve_location
from airflow_mullama.storage.staging import replacing, s3_put
from airflow_mullama.storage.staging.replacing import replace_file
from airflow_mullama.storage.staging.versions import version_of


@pytest.fixture
def no_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if boto3 were not installed."""
    monkeypatch.setattr(replacing, "conditional_put", lambda target: None)


@pytest.fixture(params=["local", "s3", "s3 without conditions", "fsspec"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "local":
        return local_location(str(tmp_path / "lake" / "out"))
    if request.param == "fsspec":
        return resolve_location(f"memory://{os.urandom(4).hex()}/out")
    if request.param == "s3 without conditions":
        request.getfixturevalue("no_conditions")
    store = request.getfixturevalue("object_store")
    return store.resolve(store.url("lake", "out"))


Publish = Callable[[Location, bytes, str | None], None]


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    def publish(target: Location, content: bytes, version: str | None) -> None:
        staging = target.parent.join("_stage", os.urandom(4).hex())
        built = Path(staging.path) if target.is_local else tmp_path / "built"
        built.parent.mkdir(parents=True, exist_ok=True)
        built.write_bytes(content)
        replace_file(str(built), target, staging=staging, version=version)

    return publish


def content(target: Location) -> bytes:
    with target.filesystem.open_input_stream(target.path) as stream:
        return bytes(stream.read())


def objects(target: Location) -> list[str]:
    selector = pafs.FileSelector(target.parent.path, recursive=True)
    return [info.base_name for info in target.filesystem.get_file_info(selector) if info.type == pafs.FileType.File]


def test_it_replaces_what_was_there_when_the_attempt_began(target: Location, publish: Publish) -> None:
    assert version_of(target) is None
    publish(target, b"first", None)
    first = version_of(target)
    assert first
    assert version_of(target) == first
    publish(target, b"second", first)
    assert content(target) == b"second"
    assert version_of(target) not in (None, first)
    assert objects(target) == ["out"]


@pytest.mark.parametrize("found", ["nothing", "an older one"])
def test_what_another_published_since_stays(found: str, target: Location, publish: Publish) -> None:
    if found == "an older one":
        publish(target, b"older", None)
    version = version_of(target)
    publish(target, b"of another", version)
    with pytest.raises(OutputChangedError, match=r"What lies at '.*out' is not what this attempt found there"):
        publish(target, b"too late", version)
    assert content(target) == b"of another"
    if not target.is_local:
        assert objects(target) == ["out"]


def test_what_was_removed_since_is_not_brought_back_unseen(target: Location, publish: Publish) -> None:
    publish(target, b"older", None)
    version = version_of(target)
    target.filesystem.delete_file(target.path)
    with pytest.raises(OutputChangedError):
        publish(target, b"new", version)
    publish(target, b"new", version_of(target))
    assert content(target) == b"new"


@contextmanager
def happening_at_the_last_moment(interfere: Callable[[], None]) -> Iterator[None]:
    """Once, when what may be replaced was looked at for the last time."""
    happened: list[str] = []

    def observer(step: str) -> None:
        if step == "checked" and not happened:
            happened.append(step)
            interfere()

    fail_points.observer = observer
    try:
        yield
    finally:
        fail_points.observer = None
    assert happened


@pytest.mark.integration
# Of an upload in parts, the server of the tests knows one of the two conditions; S3 knows both.
@pytest.mark.parametrize(
    ("found", "part_bytes"), [("nothing", s3_put.PART_BYTES), ("nothing", 1), ("an older one", s3_put.PART_BYTES)]
)
def test_a_store_that_takes_conditions_leaves_no_moment_for_another(
    found: str, part_bytes: int, object_store: Any, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = object_store.resolve(object_store.url("lake", "out"))
    if found == "an older one":
        publish(target, b"older", None)
    version = version_of(target)

    def interfere() -> None:
        publish(target, b"of another", version)
        monkeypatch.setattr(s3_put, "PART_BYTES", part_bytes)

    with happening_at_the_last_moment(interfere), pytest.raises(OutputChangedError):
        publish(target, b"too late", version)
    assert content(target) == b"of another"


@pytest.mark.integration
@pytest.mark.parametrize("told_by", ["address", "environment"])
def test_boto3_is_told_of_the_store_what_pyarrow_was_told(
    told_by: str, object_store: Any, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    query = ""
    if told_by == "address":
        query = f"?region=us-east-1&scheme=http&endpoint_override={object_store.endpoint.removeprefix('http://')}"
    else:
        monkeypatch.setenv("AWS_ENDPOINT_URL", object_store.endpoint)
    target = resolve_location(object_store.url("lake", "out") + query)
    publish(target, b"older", None)
    version = version_of(target)
    with (
        happening_at_the_last_moment(lambda: publish(target, b"of another", version)),
        pytest.raises(OutputChangedError, match="Another object lies at"),
    ):
        publish(target, b"too late", version)
    assert content(target) == b"of another"


@pytest.mark.integration
def test_s3fs_sends_the_same_conditions(object_store: Any, publish: Publish) -> None:
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    filesystem = fsspec.filesystem("s3", key="test", secret="test", endpoint_url=object_store.endpoint)
    path = f"{object_store.bucket}/lake/out"
    target = Location(fsspec_filesystem(filesystem), path, f"s3://{path}")
    for found in ("nothing", "an older one"):
        version = version_of(target)
        assert (version is None) == (found == "nothing")
        with (
            happening_at_the_last_moment(functools.partial(publish, target, found.encode(), version)),
            pytest.raises(OutputChangedError, match="Another object lies at"),
        ):
            publish(target, b"too late", version)
        assert content(target) == found.encode()
    assert objects(target) == ["out"]


@pytest.mark.integration
def test_a_large_file_goes_up_in_parts(object_store: Any, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_put, "PART_BYTES", 5 << 20)  # S3 takes no smaller part but the last
    target = object_store.resolve(object_store.url("lake", "out"))
    large = os.urandom(1 << 20) * 11
    publish(target, large, None)
    assert content(target) == large


@pytest.mark.usefixtures("no_conditions")
def test_an_upload_that_another_removed_with_its_stage_is_told_of_as_gone(object_store: Any, publish: Publish) -> None:
    target = object_store.resolve(object_store.url("lake", "out"))
    stage = target.parent.join("_stage")
    with (
        happening_at_the_last_moment(lambda: target.filesystem.delete_dir(stage.path)),
        pytest.raises(StageVanishedError, match=r"The upload .* is gone"),
    ):
        publish(target, b"new", None)


def test_a_local_file_that_is_gone_is_told_of_as_gone(tmp_path: Path) -> None:
    target = local_location(str(tmp_path / "out"))
    for version in (None, "an older one"):
        with pytest.raises(StageVanishedError, match=r"unpublished file .* is gone"):
            replace_file(str(tmp_path / "built"), target, staging=target, version=version)


def test_a_filesystem_without_hard_links_will_do(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    target = local_location(str(tmp_path / "lake" / "out"))
    publish(target, b"new", None)
    assert content(target) == b"new"
    assert objects(target) == ["out"]


def test_of_two_hosts_a_network_filesystem_lets_one_give_a_name(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other's output was not seen when this host looked, and locks do not reach it."""
    target = local_location(str(tmp_path / "lake" / "out"))
    publish(target, b"of another host", None)
    monkeypatch.setattr(replacing, "version_of", lambda location: None)
    with pytest.raises(OutputChangedError):
        publish(target, b"too late", None)
    assert content(target) == b"of another host"


def test_looking_and_replacing_are_one_turn(tmp_path: Path, publish: Publish) -> None:
    """Whoever holds the directory is waited for, and what they publish is seen."""
    target = local_location(str(tmp_path / "lake" / "out"))
    publish(target, b"older", None)
    version = version_of(target)
    errors: list[Exception] = []

    def late() -> None:
        try:
            publish(target, b"too late", version)
        except OutputChangedError as error:
            errors.append(error)

    thread = threading.Thread(target=late)
    handle = os.open(target.parent.path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    thread.start()
    (tmp_path / "of another").write_bytes(b"of another")
    os.replace(tmp_path / "of another", target.path)
    os.close(handle)
    thread.join(60)
    assert len(errors) == 1
    assert content(target) == b"of another"


def test_a_directory_that_is_held_for_long_is_an_error_that_may_pass(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "TURN_SECONDS", 0.0)
    target = local_location(str(tmp_path / "lake" / "out"))
    (tmp_path / "lake").mkdir()
    handle = os.open(target.parent.path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(StorageUnavailableError, match="has been locked by another process for 0 s"):
        publish(target, b"new", None)
    os.close(handle)


@pytest.mark.integration
def test_what_the_store_says_is_told(object_store: Any, publish: Publish) -> None:
    target = object_store.resolve(object_store.url("lake", "out"))
    nowhere = replace(target, path="no-such-bucket/lake/out")
    with pytest.raises(OutputNotWritableError, match="NoSuchBucket"):
        publish(nowhere, b"new", None)
