"""What tells the file that lies at a place from whatever lay, or will lie, there."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from airflow_mullama.errors import StorageUnavailableError
from airflow_mullama.storage.filesystems import Location

# What filesystems of fsspec call it: s3fs, adlfs, gcsfs.
FSSPEC_VERSIONS = ("ETag", "etag", "generation")


def version_of(location: Location) -> str | None:
    """The version of the file at a place; ``None`` where there is none.

    Raises:
        StorageUnavailableError: the filesystem does not say.
    """
    try:
        if location.is_local:
            return _of_local_file(location.path)
        if location.filesystem.type_name == "s3":
            return _etag(location)
        if (filesystem := fsspec_filesystem_of(location)) is not None:
            return _of_fsspec_file(filesystem, location.path)
        info = location.filesystem.get_file_info(location.path)
        return None if info.type == pafs.FileType.NotFound else f"{info.size}-{info.mtime_ns}"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, pa.ArrowException) as error:
        raise StorageUnavailableError(f"{location.url!r} cannot be looked up: {error}.") from error


def fsspec_filesystem_of(location: Location) -> Any | None:
    """The filesystem of fsspec on which a place is; ``None`` where it is one of Arrow's own."""
    handler = getattr(location.filesystem, "handler", None)
    return handler.fs if isinstance(handler, pafs.FSSpecHandler) else None


def _of_local_file(path: str) -> str:
    try:
        # Opened, because a network filesystem then asks its server; what it says of a name may be a minute old.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError:
        status = os.stat(path)
    else:
        try:
            status = os.fstat(handle)
        finally:
            os.close(handle)
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


def _etag(location: Location) -> str:
    with location.filesystem.open_input_file(location.path) as file:
        metadata = file.metadata()
    tag = metadata.get("ETag") or metadata.get("Last-Modified") or b""
    return str(tag.decode())


def _of_fsspec_file(filesystem: Any, path: str) -> str:
    filesystem.invalidate_cache(path)  # it may remember a listing of hours ago
    info = filesystem.info(path)
    for name in FSSPEC_VERSIONS:
        if info.get(name):
            return str(info[name])
    changed = info.get("mtime") or info.get("created") or info.get("LastModified")
    return f"{info.get('size')}-{changed}"
