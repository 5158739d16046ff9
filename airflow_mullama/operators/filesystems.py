"""Opening paths inside a task, with Airflow's connections where a URL names one."""

from __future__ import annotations

from urllib.parse import urlsplit

from airflow_mullama.errors import ConfigurationError, DependencyMissingError
from airflow_mullama.storage.filesystems import NATIVE_SCHEMES, Location, fsspec_filesystem, resolve_location


def resolve_in_task(url: str) -> Location:
    """Resolve a path or URL as :func:`airflow_mullama.storage.filesystems.resolve_location` does, and more.

    A URL with a connection (``s3://my_conn@bucket/key``) or of a scheme that Arrow does not speak goes through
    ``ObjectStoragePath``, so that Airflow's connection, provider and secrets backend are used. Others use the
    machine's own credentials, as does a scheme that no provider of this Airflow speaks but fsspec does.

    Raises:
        ConfigurationError, DependencyMissingError
    """
    parts = urlsplit(url) if "://" in url else None
    if parts is None or parts.scheme == "file" or (parts.scheme in NATIVE_SCHEMES and "@" not in parts.netloc):
        return resolve_location(url)
    from airflow.sdk import ObjectStoragePath

    try:
        path = ObjectStoragePath(url)
        return Location(fsspec_filesystem(path.fs), path.path.rstrip("/"), url.rstrip("/"))
    except ImportError as error:
        raise DependencyMissingError(f"The URL {url!r} needs a package that is not installed: {error}.") from error
    except ValueError as error:
        if "@" not in parts.netloc:
            return resolve_location(url)
        raise ConfigurationError(
            f"The URL {url!r} cannot be used ({error}); for s3://conn_id@bucket install "
            "apache-airflow-providers-amazon[s3fs], for other stores their provider, or leave the connection out of "
            "the URL to use the machine's own credentials."
        ) from error


def max_map_length() -> int:
    """Most tasks that one task maps to here: ``[core] max_map_length``."""
    try:
        from airflow.sdk.configuration import conf
    except ImportError:  # Airflow 3.1
        from airflow.configuration import conf
    return int(conf.getint("core", "max_map_length", fallback=1024))
