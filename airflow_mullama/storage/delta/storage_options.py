"""What deltalake must be told of a store that Arrow was told of in an address."""

from __future__ import annotations

from urllib.parse import parse_qsl

from airflow_mullama.storage.addresses import split_query, store_scheme
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.places import place_of


def table_uri(table: Location) -> str:
    """The address by which deltalake knows a table."""
    store = store_scheme(table.address)
    if not store:
        return table.path
    place = place_of(table.address)
    return f"{store}://{place.bucket}/{place.path}"


def storage_options(table: Location) -> dict[str, str]:
    """Options for deltalake, besides what it finds in the environment itself."""
    _, query = split_query(table.address)
    given = dict(parse_qsl(query[1:]))
    options = {}
    if "region" in given:
        options["aws_region"] = given["region"]
    if endpoint := given.get("endpoint_override"):
        scheme = given.get("scheme", "https")
        options["aws_endpoint_url"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
        options["aws_allow_http"] = "true" if options["aws_endpoint_url"].startswith("http://") else "false"
    return {**options, **table.client_options}
