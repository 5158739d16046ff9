"""Making things appear whole or not at all.

On a local filesystem: write beside, fsync, rename, fsync the folder. On an object store an object appears when its
upload ends, so it is uploaded in one go from something that is already whole.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator, Sequence

import pyarrow as pa

from airflow_mullama.errors import OutputNotWritableError, StageVanishedError
from airflow_mullama.storage.filesystems import Location

log = logging.getLogger(__name__)

COPY_BYTES = 8 << 20
FOLDER_TRIES = 5
# S3 copies objects up to 5 GB in one request; a larger output is uploaded in place.
LARGEST_STORE_COPY = 5 * 1000**3


@contextlib.contextmanager
def writing(target: Location) -> Iterator[None]:
    """Turn what a filesystem says of a refused write into one sentence.

    Raises:
        OutputNotWritableError: names the place, the cause and the remedy.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        code = getattr(error, "errno", None)
        if code == errno.ENOSPC:
            remedy = "the disk is full: free space and run again; finished chunks are kept"
        elif code in (errno.EACCES, errno.EPERM):
            remedy = "this user may not write there: change its permissions or output_path"
        elif code == errno.EROFS:
            remedy = "the filesystem is read-only: change output_path"
        elif code in (errno.ENOTDIR, errno.EEXIST):
            remedy = "a part of the path is a file and not a directory: change output_path"
        else:
            remedy = f"{error}: check output_path and the rights to write there"
        raise OutputNotWritableError(f"Cannot write {target.url!r}: {remedy}.") from error


def publish_bytes(target: Location, *parts: bytes | memoryview) -> None:
    """Write a small file durably, of several parts, and its folder if that is missing."""
    with writing(target):
        if not target.is_local:
            with target.filesystem.open_output_stream(target.path) as stream:
                for part in parts:
                    stream.write(part)
            return
        for _ in range(FOLDER_TRIES - 1):
            # Another attempt of the same partition may publish it, and remove the whole stage, at any moment.
            with contextlib.suppress(FileNotFoundError):
                _write_beside_and_rename(target, parts)
                return
        _write_beside_and_rename(target, parts)


def _write_beside_and_rename(target: Location, parts: Sequence[bytes | memoryview]) -> None:
    os.makedirs(target.parent.path, exist_ok=True)
    temporary = f"{target.path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target.path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent.path)


def publish_file(local_path: str, target: Location, staging: Location | None = None) -> None:
    """Publish a finished local file as ``target``, replacing what is there.

    Args:
        local_path: for a local target, on the same filesystem as it.
        target: the final place.
        staging: for an object store, where the upload goes before the store moves it; ``None`` uploads in place.
    """
    with writing(target):
        if target.is_local:
            _sync_file(local_path)
            os.makedirs(target.parent.path, exist_ok=True)
            try:
                os.replace(local_path, target.path)
            except FileNotFoundError:
                if os.path.exists(local_path):
                    raise
                raise StageVanishedError(f"The unpublished file {local_path!r} is gone.") from None
            _sync_folder(target.parent.path)
            return
        target.filesystem.create_dir(target.parent.path, recursive=True)
        # An upload that breaks off may still leave an object, so it goes to a place nobody reads, and what is whole is
        # moved by the store itself: there the object appears at once.
        beside = staging or target
        if os.path.getsize(local_path) > LARGEST_STORE_COPY:
            beside = target
        with open(local_path, "rb") as source, target.filesystem.open_output_stream(beside.path) as sink:
            shutil.copyfileobj(source, sink, COPY_BYTES)
        if beside is not target:
            target.filesystem.move(beside.path, target.path)


def discard(location: Location) -> None:
    """Remove a folder and all in it; leaving it behind is untidy, never wrong, so nothing is raised."""
    try:
        location.filesystem.delete_dir(location.path)
    except FileNotFoundError:
        pass
    except (OSError, pa.ArrowException) as error:
        log.warning("could not remove %s: %s", location.url, error)


def _sync_file(path: str) -> None:
    try:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except FileNotFoundError:
        raise StageVanishedError(f"The unpublished file {path!r} is gone.") from None


def _sync_folder(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
