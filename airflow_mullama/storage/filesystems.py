"""From a path or URL to a filesystem and a path on it.

Local paths and the stores that Arrow speaks natively (S3, GCS, Azure, HDFS) need nothing more; any other URL goes
through fsspec. Inside a task the operators pass their own resolver, which knows Airflow's connections.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs

from airflow_mullama.errors import ConfigurationError, DependencyMissingError, StorageUnavailableError
from airflow_mullama.storage.addresses import (
    BUCKET_SCHEMES,
    NATIVE_SCHEMES,
    local_path,
    refuse_credentials,
    scheme_of,
    shown_address,
    split_pin,
    split_query,
    store_scheme,
    table_format,
)

# Object stores that Arrow speaks natively, as it calls their filesystems.
STORES = frozenset({"s3", "gcs", "abfs"})


@dataclass(frozen=True)
class Location:
    """A place on a filesystem.

    Args:
        filesystem: Arrow's.
        path: on that filesystem, without a trailing slash.
        address: how people write it, so that it can be opened again. It holds no password: see
            :func:`airflow_mullama.storage.addresses.refuse_credentials`.
        client_options: what other clients of the same store or catalog are to be told besides; of a connection.
    """

    filesystem: pafs.FileSystem
    path: str
    address: str
    client_options: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def url(self) -> str:
        """What may be shown: printable, without user and query."""
        return shown_address(self.address)

    @property
    def is_local(self) -> bool:
        """Whether it lies on a filesystem of this machine, with atomic renames."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    @property
    def real_path(self) -> str:
        """The path without symbolic links: two places with the same one are the same."""
        return os.path.realpath(self.path) if self.is_local else self.path

    @property
    def name(self) -> str:
        """The last segment of the path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def parent(self) -> Location:
        """The folder it lies in."""
        base, query = split_query(self.address)
        above = base.rstrip("/").rpartition("/")[0] + query
        return replace(self, path=self.path.rpartition("/")[0], address=above)

    def join(self, *segments: str) -> Location:
        """A place below this one."""
        below = "/".join(segment.strip("/") for segment in segments)
        base, query = split_query(self.address)
        written = quote(below) if scheme_of(base) == "file" else below
        return replace(self, path=f"{self.path}/{below}", address=f"{base.rstrip('/')}/{written}{query}")

    def info(self) -> pafs.FileInfo:
        """What lies there.

        Raises:
            StorageUnavailableError: the filesystem does not say.
        """
        try:
            return self.filesystem.get_file_info(self.path)
        except (OSError, pa.ArrowException) as error:
            raise StorageUnavailableError(f"{self.url!r} cannot be looked up: {error}.") from error

    @property
    def has_folders(self) -> bool:
        """Whether a file needs a folder to lie in; the keys of an object store need none."""
        return self.filesystem.type_name not in STORES

    def is_file(self) -> bool:
        """Whether a file lies there, which a store is asked in one request.

        Raises:
            StorageUnavailableError: the filesystem does not say.
        """
        if self.has_folders:
            return bool(self.info().type == pafs.FileType.File)
        try:
            self.filesystem.open_input_file(self.path).close()
        except FileNotFoundError:
            return False
        except (OSError, pa.ArrowException) as error:
            raise StorageUnavailableError(f"{self.url!r} cannot be looked up: {error}.") from error
        return True

    def __str__(self) -> str:
        return self.url


Resolver = Callable[[str], Location]


def resolve_location(url: str | os.PathLike[str]) -> Location:
    """Resolve a local path, a ``file://`` URL or an object store's URL.

    Raises:
        ConfigurationError: an empty path, one that is not UTF-8, or a URL that holds credentials or that no installed
            filesystem understands.
        DependencyMissingError: the filesystem's package is not installed.
    """
    text = os.fspath(url)
    if not text.strip():
        raise ConfigurationError("A path is empty; give a Parquet file, a directory or an object store's URL.")
    refuse_credentials(text, "The URL")
    scheme = scheme_of(text)
    if table_format(text) is not None:
        return table_location(text, resolve_location)
    if scheme in ("", "file"):
        return local_location(local_path(text), text)
    if scheme in NATIVE_SCHEMES:
        base, query = split_query(text)
        host, slash, below = base[len(scheme) + 3 :].partition("/")
        shown = shown_address(text)
        if "@" in host and scheme in BUCKET_SCHEMES:
            raise ConfigurationError(
                f"The URL {shown!r} names a user or an Airflow connection, which is known only in a task; put "
                "credentials into the environment."
            )
        if "//" in f"/{below.rstrip('/')}":
            raise ConfigurationError(
                f"The URL {shown!r} has an empty name between two slashes, which Arrow cannot open; move the object to "
                "a key without one."
            )
        try:
            # The path is taken literally: what the store calls "city=New%20York" is written so here, not decoded.
            filesystem, path = pafs.FileSystem.from_uri(
                f"{scheme}://{host}{slash}{quote(below)}{_with_speed(scheme, query)}"
            )
        except (pa.ArrowException, ValueError) as error:
            raise ConfigurationError(f"The URL {shown!r} cannot be used: {error}.") from error
        except OSError as error:  # finding out the bucket's region needs the network
            raise StorageUnavailableError(f"The URL {shown!r} cannot be opened now: {error}.") from error
        return Location(filesystem, path.rstrip("/"), base.rstrip("/") + query)
    return _fsspec_location(text)


def _with_speed(scheme: str, query: str) -> str:
    """The query with what lets Arrow write a small object in one request; without it, it takes three."""
    return f"{query}{'&' if query else '?'}allow_delayed_open=true" if scheme == "s3" else query


def local_location(path: str, url: str | None = None) -> Location:
    """A path of this machine, made absolute."""
    absolute = os.path.abspath(os.path.expanduser(path))
    try:
        absolute.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"The path {path!r} is not UTF-8, and Arrow opens no other names; give the file or folder another name."
        ) from None
    return Location(pafs.LocalFileSystem(), absolute, (url or absolute).rstrip("/") or "/")


def table_location(url: str, resolver: Resolver) -> Location:
    """The place of a table: where a Delta table's directory lies, or what a catalog is asked for.

    Args:
        url: ``delta:///path``, ``delta+s3://bucket/path`` or ``iceberg://catalog/namespace.table``; behind it may stand
            segments of partitions (``/ds=2026-01-31``) and a state.
        resolver: opens the store's own URLs.

    Raises:
        ConfigurationError, DependencyMissingError, StorageUnavailableError
    """
    base, query = split_query(split_pin(url)[0])
    host, _, below = base[len(scheme_of(base)) + 3 :].partition("/")
    below = below.strip("/")
    if table_format(url) == "iceberg":
        if not host or "." not in below.partition("/")[0]:
            raise ConfigurationError(
                f"The address {shown_address(url)!r} names no table; write iceberg://catalog/namespace.table."
            )
        return Location(pafs.LocalFileSystem(), f"{host.rpartition('@')[2]}/{below}", _trimmed(url))
    if (not host) != (scheme_of(url) == "delta") or not below:
        raise ConfigurationError(
            f"The address {shown_address(url)!r} names no table; write delta:///path with three slashes for a "
            "directory of this machine, or delta+s3://bucket/path."
        )
    store = store_scheme(url)
    location = resolver(f"{store}://{host}/{below}{query}" if store else f"/{below}")
    return replace(location, address=_trimmed(url))


def _trimmed(url: str) -> str:
    base, query = split_query(url)
    return base.rstrip("/") + query


def fsspec_filesystem(filesystem: Any) -> pafs.FileSystem:
    """An fsspec filesystem (such as ``ObjectStoragePath(...).fs``) as Arrow's."""
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem))


def _fsspec_location(url: str) -> Location:
    shown = shown_address(url)
    try:
        import fsspec.core
    except ImportError as error:
        raise DependencyMissingError(f"The URL {shown!r} needs the package fsspec: pip install fsspec.") from error
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise DependencyMissingError(f"The URL {shown!r} needs a package that is not installed: {error}.") from error
    except ValueError as error:
        raise ConfigurationError(f"The URL {shown!r} cannot be used: {error}.") from error
    return Location(fsspec_filesystem(filesystem), path.rstrip("/"), url.rstrip("/"))
