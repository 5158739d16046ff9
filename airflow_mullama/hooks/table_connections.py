"""Tables whose address names an Airflow connection.

``delta+s3://conn_id@bucket/path`` is opened with the keys of a connection of type ``aws``; of
``iceberg://conn_id@catalog/namespace.table`` the connection describes the catalog.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow.fs as pafs
from airflow.sdk import BaseHook

from airflow_mullama.compat import AirflowNotFoundException, mask_secret
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.storage.addresses import BUCKET_SCHEMES, scheme_of, shown_address, store_scheme, table_format
from airflow_mullama.storage.filesystems import Location, Resolver, table_location
from airflow_mullama.storage.places import place_of

# What a connection may say that is more than a key.
FURTHER_LOGINS = ("role_arn", "assume_role_method", "profile_name", "credential_process")

# What the names of secrets have in them.
SECRETS = ("password", "token", "secret", "credential", "access-key")


def resolve_table(url: str, resolver: Resolver) -> Location:
    """The place of a table, opened with the connection that its address names, if it names one.

    Args:
        url: a table's address.
        resolver: opens addresses without a connection.

    Raises:
        ConfigurationError: the connection is missing, or is not of the kind that the address needs.
    """
    login, at, _ = url[len(scheme_of(url)) + 3 :].partition("/")[0].rpartition("@")
    if not at or (table_format(url) == "delta" and store_scheme(url) not in BUCKET_SCHEMES):
        return table_location(url, resolver)
    if table_format(url) == "iceberg":
        return replace(table_location(url, resolver), client_options=catalog_properties(_connection(login, url)))
    if store_scheme(url) not in ("s3", "s3a"):
        raise ConfigurationError(
            f"The address {shown_address(url)!r} names a connection, which is known of S3 alone; leave it out, and put "
            "credentials into the environment."
        )
    options = s3_options(_connection(login, url))

    def with_connection(inner: str) -> Location:
        place = place_of(inner)
        return Location(s3_filesystem(options), f"{place.bucket}/{place.path}", inner, options)

    return table_location(url, with_connection)


def catalog_properties(connection: Any) -> dict[str, str]:
    """A connection as properties of a catalog of pyiceberg's: its extra, else its host, login and password.

    Raises:
        ConfigurationError: it names no catalog.
    """
    properties = {name: str(value) for name, value in connection.extra_dejson.items()}
    if "uri" not in properties and connection.host:
        port = f":{connection.port}" if connection.port else ""
        properties["uri"] = f"{connection.host}{port}"
    if "credential" not in properties and connection.login and connection.password:
        properties["credential"] = f"{connection.login}:{connection.password}"
    if not {"uri", "type", "catalog-impl", "py-catalog-impl"} & properties.keys():
        raise ConfigurationError(
            f"The connection {connection.conn_id!r} describes no catalog; give it a host, or pyiceberg's properties as "
            'its extra, such as {"type": "rest", "uri": "https://catalog"}.'
        )
    return properties


def s3_options(connection: Any) -> dict[str, str]:
    """A connection of type ``aws`` as deltalake's options.

    Raises:
        ConfigurationError: it logs in by more than a key.
    """
    extra: Mapping[str, Any] = connection.extra_dejson
    if further := [name for name in FURTHER_LOGINS if extra.get(name)]:
        raise ConfigurationError(
            f"The connection {connection.conn_id!r} has {further[0]!r}, and tables are opened with a key alone; put "
            "its credentials into the environment, and leave the connection out of the address."
        )
    of_service = (extra.get("service_config") or {}).get("s3") or {}
    endpoint = of_service.get("endpoint_url") or extra.get("endpoint_url")
    options = {
        "aws_access_key_id": connection.login,
        "aws_secret_access_key": connection.password,
        "aws_session_token": extra.get("aws_session_token"),
        "aws_region": extra.get("region_name"),
        "aws_endpoint_url": endpoint,
        "aws_allow_http": "true" if str(endpoint).startswith("http://") else None,
    }
    return {name: str(value) for name, value in options.items() if value}


def s3_filesystem(options: Mapping[str, str]) -> pafs.S3FileSystem:
    """The same as a filesystem of Arrow's."""
    arguments = {
        "access_key": "aws_access_key_id",
        "secret_key": "aws_secret_access_key",
        "session_token": "aws_session_token",
        "region": "aws_region",
        "endpoint_override": "aws_endpoint_url",
    }
    return pafs.S3FileSystem(**{name: options[key] for name, key in arguments.items() if key in options})


def _connection(conn_id: str, url: str) -> Any:
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        raise ConfigurationError(
            f"There is no connection {conn_id!r}, which the address {shown_address(url)!r} names; create it, or leave "
            "it out to use the machine's own credentials."
        ) from error
    for name, value in {"password": connection.password, **connection.extra_dejson}.items():
        if value and any(word in name for word in SECRETS):
            mask_secret(str(value))
    return connection
