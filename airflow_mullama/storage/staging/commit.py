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

from airflow_mullama.errors import MullamaError, OutputNotWritableError, StageVanishedError
from airflow_mullama.storage.addresses import split_query
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.staging.s3_client import s3_client

log = logging.getLogger(__name__)

COPY_BYTES = 8 << 20
FOLDER_TRIES = 5


@contextlib.contextmanager
def writing(target: Location) -> Iterator[None]:
    """Turn what a filesystem says of a refused write into one sentence.

    Raises:
        OutputNotWritableError: names the place, the cause and the remedy.
    """
    try:
        yield
    except MullamaError:
        raise  # of something else than the write: the input, another writer's output
    except OSError as error:
        code = error.errno
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
    except pa.ArrowException as error:
        raise OutputNotWritableError(f"Cannot write {target.url!r}: Arrow refuses these rows ({error}).") from error


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


def make_folder(folder: Location) -> None:
    """Create a folder and those above it, where a file needs one."""
    _, query = split_query(folder.address)
    if folder.has_folders or "allow_bucket_creation" in query:
        folder.filesystem.create_dir(folder.path, recursive=True)


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
    sync_folder(target.parent.path)


def publish_file(local_path: str, target: Location) -> None:
    """Publish a finished local file as ``target``, replacing what is there.

    Args:
        local_path: for a local target, on the same filesystem as it.
        target: the final place; where something may be there that others want,
            :func:`airflow_mullama.storage.staging.replacing.replace_file` is for it.
    """
    with writing(target):
        if target.is_local:
            sync_file(local_path)
            os.makedirs(target.parent.path, exist_ok=True)
            try:
                os.replace(local_path, target.path)
            except FileNotFoundError:
                if os.path.exists(local_path):
                    raise
                raise StageVanishedError(f"The unpublished file {local_path!r} is gone.") from None
            sync_folder(target.parent.path)
            return
        make_folder(target.parent)
        upload(local_path, target)


def upload(local_path: str, target: Location) -> None:
    """Put a local file on an object store; what was there is replaced when the upload ends."""
    with open(local_path, "rb") as source, target.filesystem.open_output_stream(target.path) as sink:
        shutil.copyfileobj(source, sink, COPY_BYTES)


def discard(location: Location) -> None:
    """Remove a folder and all in it; leaving it behind is untidy, never wrong, so nothing is raised.

    No link is followed, neither instead of the folder nor in it.
    """
    try:
        if location.is_local:
            shutil.rmtree(location.path)
        elif not _deleted_in_bulk(location):
            location.filesystem.delete_dir(location.path)
    except FileNotFoundError:
        pass
    except (OSError, pa.ArrowException) as error:
        log.warning("could not remove %s: %s", location.url, error)


def _deleted_in_bulk(folder: Location) -> bool:
    """Delete what lies below a folder, if it can be done in a thousand at once.

    PyArrow takes three requests more, and leaves an empty object in the name of the folder above.
    """
    client = s3_client(folder.filesystem)
    if client is None:
        return False
    bucket, _, key = folder.path.partition("/")
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{key}/"):
            keys = [{"Key": found["Key"]} for found in page.get("Contents", ())]
            if keys and client.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True}).get("Errors"):
                return False
    except Exception as error:  # noqa: BLE001 - boto3's many; stores that resemble S3 do not know all of it
        log.debug("PyArrow is to remove %s: %s", folder.url, error)
        return False
    return True


def sync_file(path: str) -> None:
    """Make a file durable.

    Raises:
        StageVanishedError: it is gone.
    """
    try:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except FileNotFoundError:
        raise StageVanishedError(f"The unpublished file {path!r} is gone.") from None


def sync_folder(path: str) -> None:
    """Make durable what a directory's names stand for."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
