"""The options of the engine ``openai``, and where its API key comes from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from airflow_mullama.arguments import Check, Checked, Number, OfType, OneOf, Whole, refuse_url
from airflow_mullama.engines.openai.http_client import Endpoint, HttpClient, tls_context
from airflow_mullama.engines.openai.request_options import check_extra_body, check_headers, check_query, secrets_in
from airflow_mullama.engines.options import read_key
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.redaction.credentials import Secret

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
KEY_HEADERS = ("authorization", "api-key", "x-api-key")
DEFAULT_REQUEST_TIMEOUT = 600.0
DEFAULT_MAX_WAIT = 120.0
SERVERS = ("llamacpp", "vllm", "mullama", "other")


def _check_api_key(value: object) -> None:
    read_key(value, "engine_options['api_key']")


def _check_key_variable(value: object) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        # Most likely the key itself, so it is not quoted either.
        raise ConfigurationError(
            "engine_options['api_key_env'] must be the name of an environment variable, such as "
            f"{DEFAULT_KEY_VARIABLE}; a key itself belongs into api_key."
        )


def _check_ca_file(value: object) -> None:
    refuse_url("engine_options['ca_file']", value)
    if not isinstance(value, str):
        raise ConfigurationError(f"engine_options['ca_file'] is {value!r}; it must be the path of a PEM file.")
    tls_context(value)


CHECKS: Mapping[str, Check] = {
    "endpoint": Checked(Endpoint.parse),
    "api_key": Checked(_check_api_key),
    "api_key_env": Checked(_check_key_variable),
    "ca_file": Checked(_check_ca_file),
    "query": Checked(check_query),
    "headers": Checked(check_headers),
    "extra_body": Checked(check_extra_body),
    "server": OneOf(SERVERS),
    "model_file": OfType(str, "the place of the served model's GGUF file"),
    "n_parallel": Whole(1, 256),
    "rows_per_call": Whole(1, 2048),
    "request_timeout": Number(0.1, 86_400.0),
    "max_wait": Number(0.0, 86_400.0),
    "dimensions": Whole(1, 65_536),
    "tokenizer": OfType(str, "the path of the model's tokenizer.json"),
}
OUTPUT_OPTIONS = frozenset({"extra_body"})

# What OpenSSL takes its certificates from.
TLS_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def endpoint_of(options: Mapping[str, Any]) -> Endpoint:
    """The server's address.

    Raises:
        ConfigurationError: none is given.
    """
    if options.get("endpoint") is None:
        raise ConfigurationError(
            "engine='openai' needs engine_options['endpoint']: where the server is, such as http://127.0.0.1:8080/v1."
        )
    return Endpoint.parse(options["endpoint"])


def key_in_environment(options: Mapping[str, Any]) -> str:
    """The value of the environment variable that would hold the key, as it is; empty if it is not set."""
    return os.environ.get(str(options.get("api_key_env") or DEFAULT_KEY_VARIABLE), "")


def api_key_of(options: Mapping[str, Any]) -> Secret | None:
    """``api_key``, else the value of the environment variable that ``api_key_env`` names.

    Raises:
        ConfigurationError: both are given, the named variable is not set, or its value is not a key.
    """
    given, variable = options.get("api_key"), options.get("api_key_env")
    if given is not None:
        if variable is not None:
            raise ConfigurationError("Give either engine_options['api_key'] or ['api_key_env'], not both.")
        return read_key(given, "engine_options['api_key']")
    if variable is None and any(name.lower() in KEY_HEADERS for name in options.get("headers") or {}):
        return None  # the key is among the headers; the environment's is for somebody else
    value = key_in_environment(options)
    if value.strip():
        return read_key(value, f"The environment variable {variable or DEFAULT_KEY_VARIABLE}")
    if variable is not None:
        raise ConfigurationError(
            f"engine_options['api_key_env'] names the environment variable {variable}, which is empty or not set "
            "here; set it where the task runs, or leave the option out if the server wants no key."
        )
    return None


def variables(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The environment variables that the engine reads."""
    key = () if options.get("api_key") else (options.get("api_key_env") or DEFAULT_KEY_VARIABLE,)
    return (*key, *TLS_VARIABLES)


def http_client(options: Mapping[str, Any]) -> HttpClient:
    """What asks the server of these options.

    Raises:
        ConfigurationError: see :func:`endpoint_of` and :func:`api_key_of`.
    """
    for key in secrets_in(options):
        Secret(key)  # from now on blotted out of what the server says
    return HttpClient(
        endpoint_of(options),
        api_key_of(options),
        float(options.get("request_timeout", DEFAULT_REQUEST_TIMEOUT)),
        float(options.get("max_wait", DEFAULT_MAX_WAIT)),
        options.get("ca_file"),
        query=options.get("query") or {},
        headers=options.get("headers") or {},
        extra_body=options.get("extra_body") or {},
    )
