"""Putting a file in the place of one certain version of it, or nowhere: no attempt undoes what another published.

Which attempts there may be, and what each may do, stands in docs/fencing.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.fs as pafs

from airflow_mullama.errors import OutputChangedError, StageVanishedError, StorageUnavailableError
from airflow_mullama.fail_points import reached
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.staging.commit import make_folder, sync_file, sync_folder, upload, writing
from airflow_mullama.storage.staging.s3_put import conditional_put
from airflow_mullama.storage.staging.versions import version_of

# S3 copies objects up to 5 GB in one request; a larger output is uploaded in place.
LARGEST_STORE_COPY = 5 * 1000**3
TURN_SECONDS = 60.0
TURN_POLL_SECONDS = 0.01


def replace_file(local_path: str, target: Location, *, staging: Location, version: str | None) -> None:
    """Publish a finished local file as ``target`` if a certain version is there.

    Args:
        local_path: for a local target, on the same filesystem as it.
        target: the final place.
        staging: where an upload goes before the store moves it, if the store takes no conditions.
        version: of what is to be replaced (:func:`~airflow_mullama.storage.staging.versions.version_of`); ``None`` if
            nothing may be there.

    Raises:
        OutputChangedError: something else is there, or nothing; it is left so.
        StageVanishedError: what was to be published was removed.
        OutputNotWritableError: the place refuses to be written.
        StorageUnavailableError: nothing can be said of what is there.
    """
    with writing(target):
        if target.is_local:
            _replace_local(local_path, target, version)
            return
        put = conditional_put(target)
        if put is not None:
            _require_version(target, version)  # also for a store that does not know the condition, and takes it
            if put(local_path, version):
                return
        _move_into_place(local_path, target, staging, version)


def _replace_local(local_path: str, target: Location, version: str | None) -> None:
    sync_file(local_path)
    folder = target.parent.path
    os.makedirs(folder, exist_ok=True)
    try:
        with _own_turn(folder, target):
            if version_of(target) != version:
                raise _changed(target)
            if version is not None or not _linked(local_path, target):
                os.replace(local_path, target.path)
    except FileNotFoundError:
        if os.path.exists(local_path):
            raise
        raise StageVanishedError(f"The unpublished file {local_path!r} is gone.") from None
    sync_folder(folder)


def _linked(local_path: str, target: Location) -> bool:
    """Give a file its name, if nothing has that name: of two hosts, a network filesystem lets one do so."""
    try:
        os.link(local_path, target.path, follow_symlinks=False)
    except FileExistsError:
        raise _changed(target) from None
    except FileNotFoundError:
        raise
    except (OSError, NotImplementedError):
        return False  # a filesystem without hard links
    with contextlib.suppress(OSError):
        os.unlink(local_path)
    return True


@contextlib.contextmanager
def _own_turn(folder: str, target: Location) -> Iterator[None]:
    """Be the only one on this host who looks at what is in a directory and replaces it.

    The lock is on the directory itself, so that nothing is left there. A network filesystem keeps it to the host.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        ends = time.monotonic() + TURN_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > ends:
                    raise StorageUnavailableError(
                        f"The directory of {target.url!r} has been locked by another process for {TURN_SECONDS:g} s, "
                        "perhaps an attempt that was suspended while it published: end or resume it, and run again; "
                        "what is finished is kept."
                    ) from None
                time.sleep(TURN_POLL_SECONDS)
                continue
            except OSError:
                pass  # a filesystem without locks
            break
        yield
    finally:
        os.close(handle)


def _move_into_place(local_path: str, target: Location, staging: Location, version: str | None) -> None:
    """On a store that takes no conditions: look, and replace at once."""
    store = target.filesystem
    make_folder(target.parent)
    if os.path.getsize(local_path) > LARGEST_STORE_COPY:
        _require_version(target, version)
        upload(local_path, target)
        return
    # An upload that breaks off may still leave an object, so it goes to a place nobody reads, and what is whole is
    # moved by the store itself: so the object appears at once.
    upload(local_path, staging)
    try:
        _require_version(target, version)
    except OutputChangedError:
        with contextlib.suppress(OSError, pa.ArrowException):
            store.delete_file(staging.path)
        raise
    try:
        store.move(staging.path, target.path)
    except (OSError, pa.ArrowException):
        if staging.info().type == pafs.FileType.NotFound:
            raise StageVanishedError(f"The upload {staging.url!r} is gone.") from None
        raise


def _require_version(target: Location, version: str | None) -> None:
    if version_of(target) != version:
        raise _changed(target)
    reached("checked")


def _changed(target: Location) -> OutputChangedError:
    return OutputChangedError(f"What lies at {target.url!r} is not what this attempt found there when it began.")
