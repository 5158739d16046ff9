"""Opening paths inside a task, with Airflow's connections where a URL names one."""

from __future__ import annotations

from airflow_mullama.errors import ConfigurationError, DependencyMissingError
from airflow_mullama.hooks.table_connections import resolve_table
from airflow_mullama.storage.addresses import NATIVE_SCHEMES, refuse_credentials, scheme_of, shown_address, table_format
from airflow_mullama.storage.filesystems import Location, fsspec_filesystem, resolve_location


def resolve_in_task(url: str) -> Location:
    """Resolve a path or URL as :func:`airflow_mullama.storage.filesystems.resolve_location` does, and more.

    A URL with a connection (``s3://my_conn@bucket/key``) or of a scheme that Arrow does not speak goes through
    ``ObjectStoragePath``, so that Airflow's connection, provider and secrets backend are used. Others use the
    machine's own credentials, as does a scheme that no provider of this Airflow speaks but fsspec does.

    Raises:
        ConfigurationError, DependencyMissingError
    """
    refuse_credentials(url, "The URL")
    scheme = scheme_of(url)
    if table_format(url) is not None:
        return resolve_table(url, resolve_in_task)
    names_connection = "@" in url[len(scheme) + 3 :].partition("/")[0]
    if scheme in ("", "file") or (scheme in NATIVE_SCHEMES and not names_connection):
        return resolve_location(url)
    from airflow.sdk import ObjectStoragePath

    try:
        path = ObjectStoragePath(url)
        return Location(fsspec_filesystem(path.fs), path.path.rstrip("/"), url.rstrip("/"))
    except ImportError as error:
        raise DependencyMissingError(
            f"The URL {shown_address(url)!r} needs a package that is not installed: {error}."
        ) from error
    except ValueError as error:
        if not names_connection:
            return resolve_location(url)
        raise ConfigurationError(
            f"The URL {shown_address(url)!r} cannot be used ({error}); for s3://conn_id@bucket install "
            "apache-airflow-providers-amazon[s3fs], for other stores their provider, or leave the connection out of "
            "the URL to use the machine's own credentials."
        ) from error


def max_map_length() -> int:
    """The most tasks that one task may map to here: ``[core] max_map_length``."""
    try:
        from airflow.sdk.configuration import conf
    except ImportError:  # Airflow 3.1
        from airflow.configuration import conf
    return int(conf.getint("core", "max_map_length", fallback=1024))
