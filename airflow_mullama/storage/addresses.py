"""Paths and URLs as people give them: what must not be in one, and what may be shown of it.

A URL can hold a password, a key or a signature: before the host, or behind a question mark. It then reaches logs,
error messages, manifests, lineage and other people's screens, so such a URL is refused where it is given, unquoted.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote_to_bytes

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.redaction.foreign_text import printable

# Schemes that Arrow opens itself, with the parameters that a URL of theirs may have and that are not secrets
# (https://arrow.apache.org/docs/cpp/api/filesystem.html, FromUri of each filesystem's options).
_OF_S3 = frozenset(
    {
        "region", "scheme", "endpoint_override", "allow_bucket_creation", "allow_bucket_deletion",
        "check_directory_existence_before_creation", "tls_ca_file_path", "tls_verify_certificates",
    }
)  # fmt: skip
_OF_GCS = frozenset({"scheme", "endpoint_override", "retry_limit_seconds", "project_id"})
_OF_AZURE = frozenset(
    {
        "blob_storage_authority", "blob_storage_scheme", "dfs_storage_authority", "dfs_storage_scheme", "enable_tls",
        "background_writes", "credential_kind", "tenant_id", "client_id",
    }
)  # fmt: skip
_OF_HDFS = frozenset({"user", "replication", "buffer_size", "default_block_size"})
PARAMETERS = {
    "s3": _OF_S3,
    "gs": _OF_GCS,
    "gcs": _OF_GCS,
    "abfs": _OF_AZURE,
    "abfss": _OF_AZURE,
    "hdfs": _OF_HDFS,
    "viewfs": _OF_HDFS,
}
NATIVE_SCHEMES = frozenset(PARAMETERS)
BUCKET_SCHEMES = frozenset({"s3", "s3a", "gs", "gcs"})
# What stands before the @ names a container there, not a user.
CONTAINER_SCHEMES = frozenset({"abfs", "abfss", "wasb", "wasbs", "adl"})
# What a table's address may have behind its question mark besides what its store's may: which state of it is meant.
PINS = {"delta": "version", "iceberg": "snapshot"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(path: str) -> str:
    """The scheme of a URL in small letters; empty for a path of this machine."""
    match = _SCHEME.match(path)
    return match[1].lower() if match else ""


def table_format(path: str) -> str | None:
    """The format whose tables an address names, ``delta`` or ``iceberg``; ``None`` for files and directories."""
    format_, _, _ = scheme_of(path).partition("+")
    return format_ if format_ in PINS else None


def store_scheme(path: str) -> str:
    """The scheme of the store in which an address lies: ``s3`` for ``delta+s3://``, none for ``delta:///``."""
    scheme = scheme_of(path)
    return scheme.partition("+")[2] if table_format(path) == "delta" else scheme


def split_pin(path: str) -> tuple[str, int | None]:
    """A table's address without the state that it names, and that state.

    Raises:
        ConfigurationError: it is not a number.
    """
    name = PINS[table_format(path) or ""]
    base, query = split_query(path)
    pins = [part for part in query[1:].split("&") if part.partition("=")[0] == name]
    others = "&".join(part for part in query[1:].split("&") if part and part not in pins)
    if not pins:
        return path, None
    value = pins[-1].partition("=")[2]
    if not value.isdecimal():
        raise ConfigurationError(
            f"The address {shown_address(path)!r} has {name}={value!r}; it must be a whole number."
        )
    return base + (f"?{others}" if others else ""), int(value)


def split_query(path: str) -> tuple[str, str]:
    """An address without its query, and the query with its question mark; files have none."""
    if scheme_of(path) in ("", "file"):
        return path, ""
    base, mark, query = path.partition("?")
    return base, mark + query


def local_path(path: str) -> str:
    """The path that a local path or a ``file://`` URL names.

    A URL's percent escapes are decoded, as ``Path.as_uri`` writes them. ``#`` and ``?`` are characters like others:
    files have neither fragments nor queries, and people write URLs of files by hand.

    Raises:
        ConfigurationError: the URL names another host.
    """
    if scheme_of(path) != "file":
        return path
    host, slash, below = path[len("file://") :].partition("/")
    if host not in ("", "localhost") or not slash:
        raise ConfigurationError(
            f"The URL {path!r} names the host {host!r}, and a file is of this machine; write file:///path, with three "
            "slashes."
        )
    return "/" + os.fsdecode(unquote_to_bytes(below.encode("utf-8", "surrogateescape")))


def refuse_credentials(path: str, name: str) -> None:
    """Refuse a URL that holds a password, or that has a place where a signature or key may be.

    Args:
        path: a path, URL or name.
        name: what it is, for people: it begins the sentence.

    Raises:
        ConfigurationError: shows no more of it than its place, and says what to do.
    """
    scheme, store = scheme_of(path), store_scheme(path)
    if scheme in ("", "file"):
        return
    if _holds_password(store, path):
        raise ConfigurationError(
            f"{name} {shown_address(path)!r} holds a password or key (not shown here), which would be shown with it; "
            f"{_way(scheme)}."
        )
    _, query = split_query(path)
    allowed = PARAMETERS.get(store, frozenset()) | {PINS[format_] for format_ in [table_format(path)] if format_}
    given = [part.partition("=") for part in query[1:].split("&") if part]
    if any(parameter not in allowed or "@" in value or "%40" in value for parameter, _, value in given):
        known = f"only {', '.join(sorted(allowed))} may stand there; " if allowed else ""
        raise ConfigurationError(
            f"{name} {shown_address(path)!r} has something behind '?' that may be a key or a signature (not shown "
            f"here); {known}{_way(scheme)}."
        )
    if store not in NATIVE_SCHEMES and "#" in path:
        raise ConfigurationError(
            f"{name} {shown_address(path)!r} has something behind '#' (not shown here), which names nothing in a "
            f"store; leave it out, and {_way(scheme)}."
        )


def _way(scheme: str) -> str:
    connection = f"{scheme}://conn_id@…"
    if scheme.removeprefix("delta+") in BUCKET_SCHEMES:
        connection = f"{scheme}://conn_id@bucket"
    return (
        "put keys into the environment, where the store's own client finds them, or in a task into an Airflow "
        f"connection ({connection})"
    )


def shown_address(path: str) -> str:
    """As much of a path or URL as may be shown: without user, password, Airflow connection, query and fragment."""
    scheme, store = scheme_of(path), store_scheme(path)
    if scheme in ("", "file"):
        return printable(path)
    base, query = split_query(path)
    if store not in NATIVE_SCHEMES:
        base = re.sub(r"/[^/]*:[^/]*@", "/", base.partition("#")[0])
    login, rest = _split_login(store, base)
    keeps_login = store in CONTAINER_SCHEMES and login and ":" not in login
    pin = _shown_pin(path, query)
    return printable(f"{base[: len(scheme)]}://{login + '@' if keeps_login else ''}{rest}{pin}")


def _shown_pin(path: str, query: str) -> str:
    name = PINS.get(table_format(path) or "")
    match = re.search(rf"[?&]({name}=[0-9]+)(&|$)", query) if name else None
    return f"?{match[1]}" if match else ""


def _holds_password(store: str, path: str) -> bool:
    base, _ = split_query(path)
    login, rest = _split_login(store, base)
    if ":" in login or "%3a" in login.lower():
        return True
    # Repositories name a revision with an @ inside the path, and none has a colon.
    in_path = store not in NATIVE_SCHEMES and any(re.search(r":.*@", part) for part in rest.split("/"))
    return in_path or (store in BUCKET_SCHEMES and ":" in rest.partition("/")[0])


def _split_login(store: str, base: str) -> tuple[str, str]:
    """What stands before the host, and the rest. A key may hold a slash, which would end the host of a sound URL."""
    rest = base[len(scheme_of(base)) + 3 :]
    authority = rest.partition("/")[0]
    if "@" in authority:
        login, _, _ = authority.rpartition("@")
        return login, rest[len(login) + 1 :]
    _, colon, port = authority.partition(":")
    if colon and "@" in rest and (store in BUCKET_SCHEMES or not port.isdecimal()):
        login, _, below = rest.rpartition("@")
        return login, below
    return "", rest
