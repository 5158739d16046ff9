"""From a path or URL to a filesystem and a path on it.

Local paths and the stores that Arrow speaks natively (S3, GCS, Azure, HDFS) need nothing more; any other URL goes
through fsspec. Inside a task the operators pass their own resolver, which knows Airflow's connections.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from airflow_mullama.errors import ConfigurationError, DependencyMissingError, StorageUnavailableError

NATIVE_SCHEMES = frozenset({"s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs"})


@dataclass(frozen=True)
class Location:
    """A place on a filesystem.

    Args:
        filesystem: Arrow's.
        path: on that filesystem, without a trailing slash.
        url: how people write it.
    """

    filesystem: pafs.FileSystem
    path: str
    url: str

    @property
    def is_local(self) -> bool:
        """Whether it lies on a filesystem of this machine, with atomic renames."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    @property
    def name(self) -> str:
        """The last segment of the path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def parent(self) -> Location:
        """The folder it lies in."""
        base, query = _split_query(self.url)
        return Location(self.filesystem, self.path.rpartition("/")[0], base.rstrip("/").rpartition("/")[0] + query)

    def join(self, *segments: str) -> Location:
        """A place below this one."""
        below = "/".join(segment.strip("/") for segment in segments)
        base, query = _split_query(self.url)
        return Location(self.filesystem, f"{self.path}/{below}", f"{base.rstrip('/')}/{below}{query}")

    def info(self) -> pafs.FileInfo:
        """What lies there.

        Raises:
            StorageUnavailableError: the filesystem does not say.
        """
        try:
            return self.filesystem.get_file_info(self.path)
        except (OSError, pa.ArrowException) as error:
            raise StorageUnavailableError(f"{self.url!r} cannot be looked up: {error}.") from error

    def __str__(self) -> str:
        return self.url


Resolver = Callable[[str], Location]


def resolve_location(url: str | os.PathLike[str]) -> Location:
    """Resolve a local path, a ``file://`` URL or an object store's URL.

    Raises:
        ConfigurationError: an empty path, or a URL that no installed filesystem understands.
        DependencyMissingError: the filesystem's package is not installed.
    """
    text = os.fspath(url)
    if not text.strip():
        raise ConfigurationError("A path is empty; give a Parquet file, a directory or an object store's URL.")
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme in ("", "file"):
        local = urlsplit(text).path if scheme else text
        return local_location(local, text)
    if scheme in NATIVE_SCHEMES:
        base, query = _split_query(text)
        address, slash, below = base.partition("://")[2].partition("/")
        if "@" in address and scheme in ("s3", "gs", "gcs"):
            raise ConfigurationError(
                f"The URL {scheme}://…@{address.rpartition('@')[2]}{slash}{below} holds credentials, which would be "
                "shown with it; put them into the environment, or in a task into an Airflow connection "
                "(s3://conn_id@bucket)."
            )
        try:
            # The path is meant as it stands: what the store calls "city=New%20York" is written so here, not decoded.
            filesystem, path = pafs.FileSystem.from_uri(f"{scheme}://{address}{slash}{quote(below)}{query}")
        except (pa.ArrowException, ValueError) as error:
            raise ConfigurationError(f"The URL {text!r} cannot be used: {error}.") from error
        except OSError as error:  # finding out the bucket's region needs the network
            raise StorageUnavailableError(f"The URL {text!r} cannot be opened now: {error}.") from error
        return Location(filesystem, path.rstrip("/"), base.rstrip("/") + query)
    return _fsspec_location(text)


def _split_query(url: str) -> tuple[str, str]:
    """A URL without its query, and the query with its question mark; a local path has none."""
    if urlsplit(url).scheme not in NATIVE_SCHEMES:
        return url, ""
    base, mark, query = url.partition("?")
    return base, mark + query


def local_location(path: str, url: str | None = None) -> Location:
    """A path of this machine, made absolute."""
    absolute = os.path.abspath(os.path.expanduser(path))
    return Location(pafs.LocalFileSystem(), absolute, (url or absolute).rstrip("/") or "/")


def fsspec_filesystem(filesystem: Any) -> pafs.FileSystem:
    """An fsspec filesystem (such as ``ObjectStoragePath(...).fs``) as Arrow's."""
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem))


def _fsspec_location(url: str) -> Location:
    try:
        import fsspec.core
    except ImportError as error:
        raise DependencyMissingError(f"The URL {url!r} needs the package fsspec: pip install fsspec.") from error
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise DependencyMissingError(f"The URL {url!r} needs a package that is not installed: {error}.") from error
    except ValueError as error:
        raise ConfigurationError(f"The URL {url!r} cannot be used: {error}.") from error
    return Location(fsspec_filesystem(filesystem), path.rstrip("/"), url.rstrip("/"))
