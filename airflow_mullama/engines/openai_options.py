"""The options of the engine ``openai``, and where its API key comes from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from airflow_mullama.engines.openai_http import Endpoint, HttpClient, tls_context
from airflow_mullama.engines.options import Check, Checked, Number, OneOf, Secret, Whole
from airflow_mullama.errors import ConfigurationError

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
DEFAULT_REQUEST_TIMEOUT = 600.0
DEFAULT_MAX_WAIT = 120.0
SERVERS = ("llamacpp", "vllm", "mullama", "other")


def _check_api_key(value: object) -> None:
    # The value is quoted nowhere. HTTP would refuse other characters with an error that does quote it.
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise ConfigurationError(
            "engine_options['api_key'] is not a key (it is not shown here); it must be a text of ASCII characters "
            "without spaces or line ends."
        )


def _check_key_variable(value: object) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        # Most likely the key itself, so it is not quoted either.
        raise ConfigurationError(
            "engine_options['api_key_env'] must be the name of an environment variable, such as "
            f"{DEFAULT_KEY_VARIABLE}; a key itself belongs into api_key."
        )


def _check_ca_file(value: object) -> None:
    if not isinstance(value, str):
        raise ConfigurationError(f"engine_options['ca_file'] is {value!r}; it must be the path of a PEM file.")
    tls_context(value)


CHECKS: Mapping[str, Check] = {
    "endpoint": Checked(Endpoint.parse),
    "api_key": Checked(_check_api_key),
    "api_key_env": Checked(_check_key_variable),
    "ca_file": Checked(_check_ca_file),
    "server": OneOf(SERVERS),
    "n_parallel": Whole(1, 256),
    "rows_per_call": Whole(1, 2048),
    "request_timeout": Number(0.1, 86_400.0),
    "max_wait": Number(0.0, 86_400.0),
    "dimensions": Whole(1, 65_536),
}
SECRET_OPTIONS = frozenset({"api_key"})


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


def api_key_of(options: Mapping[str, Any]) -> str | None:
    """``api_key``, else the value of the environment variable that ``api_key_env`` names.

    Raises:
        ConfigurationError: both are given, the named variable is not set, or its value is no key.
    """
    given, variable = options.get("api_key"), options.get("api_key_env")
    if given is not None:
        if variable is not None:
            raise ConfigurationError("Give either engine_options['api_key'] or ['api_key_env'], not both.")
        return Secret(given)
    value = os.environ.get(variable or DEFAULT_KEY_VARIABLE, "").strip()
    if value:
        if not re.fullmatch(r"[!-~]+", value):
            raise ConfigurationError(
                f"The environment variable {variable or DEFAULT_KEY_VARIABLE} does not hold an API key (its value is "
                "not shown here): a key has no spaces and only ASCII characters."
            )
        return Secret(value)
    if variable is not None:
        raise ConfigurationError(
            f"engine_options['api_key_env'] names the environment variable {variable}, which is empty or not set "
            "here; set it where the task runs, or leave the option out if the server wants no key."
        )
    return None


def http_client(options: Mapping[str, Any]) -> HttpClient:
    """What asks the server of these options.

    Raises:
        ConfigurationError: see :func:`endpoint_of` and :func:`api_key_of`.
    """
    return HttpClient(
        endpoint_of(options),
        api_key_of(options),
        float(options.get("request_timeout", DEFAULT_REQUEST_TIMEOUT)),
        float(options.get("max_wait", DEFAULT_MAX_WAIT)),
        options.get("ca_file"),
    )
