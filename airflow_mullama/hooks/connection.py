"""What a ``mullama`` connection says: read once, checked, with its secrets kept apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_mullama.engines.options import read_key
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.redaction.credentials import Secret

# Fields of the form that are options of an engine; whole numbers.
OPTION_FIELDS = ("n_gpu_layers", "n_ctx", "n_parallel")
# The engine that takes an endpoint and a key.
ENDPOINT_ENGINE = "openai"


@dataclass(frozen=True)
class ConnectionDefaults:
    """What a connection says where an operator's argument is left out.

    Args:
        model: a model's name.
        model_sha256: of that model's content.
        engine: an engine's name.
        fields: the form's options of an engine, those that are filled in.
        engine_options: further ones, as an object in the extra.
        endpoint: URL of an API.
        api_key: its key.
    """

    model: str | None = None
    model_sha256: str | None = None
    engine: str | None = None
    fields: Mapping[str, int] = field(default_factory=dict)
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    endpoint: str | None = None
    api_key: Secret | None = None

    def options_for(self, engine: str, known: Collection[str]) -> dict[str, Any]:
        """The options that an engine is given.

        A connection serves several engines: what the form has and this engine does not know is left out. What stands
        in ``engine_options`` was written for an engine, and is always given to it.

        Args:
            engine: the engine that will run.
            known: the options it has.
        """
        options: dict[str, Any] = {name: value for name, value in self.fields.items() if name in known}
        if engine == ENDPOINT_ENGINE:
            if self.endpoint:
                options["endpoint"] = self.endpoint
            if self.api_key:
                options["api_key"] = self.api_key
        return {**options, **self.engine_options}


def read_connection(connection: Any) -> ConnectionDefaults:
    """Read a connection of Airflow's.

    Args:
        connection: has ``conn_id``, ``host``, ``port``, ``schema``, ``password`` and ``extra_dejson``.

    Raises:
        ConfigurationError: a field is not what it must be.
    """
    name, extra = connection.conn_id, connection.extra_dejson
    options = extra.get("engine_options") or {}
    if not isinstance(options, Mapping):
        raise ConfigurationError(
            f"The connection {name!r} has a {type(options).__name__} for engine_options in its extra; it must be an "
            'object such as {"n_ctx": 4096}.'
        )
    if _is_given(options.get("api_key")):
        options = {
            **options,
            "api_key": read_key(options["api_key"], f"engine_options['api_key'] of the connection {name!r}"),
        }
    fields = {option: _whole(name, option, extra[option]) for option in OPTION_FIELDS if _is_given(extra.get(option))}
    twice = [option for option in fields if option in options and options[option] != fields[option]]
    if twice:
        raise ConfigurationError(
            f"The connection {name!r} gives {twice[0]} as a field ({fields[twice[0]]}) and in engine_options "
            f"({options[twice[0]]!r}); keep one of the two."
        )
    return ConnectionDefaults(
        model=_text(name, "model", extra.get("model")),
        model_sha256=_text(name, "model_sha256", extra.get("model_sha256")),
        engine=_text(name, "engine", extra.get("engine")),
        fields=fields,
        engine_options=dict(options),
        endpoint=_endpoint(connection, _text(name, "endpoint", extra.get("endpoint"))),
        api_key=read_key(connection.password, f"The field 'API key' of the connection {name!r}")
        if (connection.password or "").strip()
        else None,
    )


def _is_given(value: object) -> bool:
    return value is not None and value != ""


def _text(connection: str, name: str, value: object) -> str | None:
    if not _is_given(value):
        return None
    if not isinstance(value, str):
        raise ConfigurationError(f"The connection {connection!r} has {name} {value!r}; it must be a text.")
    return value.strip() or None


def _whole(connection: str, name: str, value: object) -> int:
    # A URI has only texts.
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigurationError(f"The connection {connection!r} has {name} {value!r}; it must be a whole number.")
    return value


def _endpoint(connection: Any, endpoint: str | None) -> str | None:
    """The URL of the form's field, or one made of host, port and schema; a path alone is appended to these."""
    if endpoint and "://" in endpoint:
        url = endpoint
    elif connection.host:
        base = connection.host if "://" in connection.host else f"{connection.schema or 'http'}://{connection.host}"
        url = base.rstrip("/") + (f":{connection.port}" if connection.port else "")
        if endpoint:
            url = f"{url}/{endpoint.lstrip('/')}"
    elif endpoint:
        url = endpoint
    else:
        return None
    from airflow_mullama.engines.openai.http_client import Endpoint

    Endpoint.parse(url, f"The endpoint of the connection {connection.conn_id!r}")
    return url
