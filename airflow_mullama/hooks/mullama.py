"""The ``mullama`` connection: defaults for model, engine and engine options, kept in one place for many DAGs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from airflow.sdk import BaseHook

from airflow_mullama.compat import AirflowNotFoundException
from airflow_mullama.errors import ConfigurationError


@dataclass(frozen=True)
class ConnectionDefaults:
    """What a connection says where an operator's argument is left out."""

    model: str | None = None
    engine: str | None = None
    engine_options: Mapping[str, Any] = field(default_factory=dict)


class MullamaHook(BaseHook):
    """Reads a connection of type ``mullama``. Its extra is JSON: ``{"model": …, "engine": …, "engine_options": {…}}``.

    Args:
        mullama_conn_id: the connection's id. The default one need not exist; any other must.
    """

    conn_name_attr: ClassVar[str] = "mullama_conn_id"
    default_conn_name: ClassVar[str] = "mullama_default"
    conn_type: ClassVar[str] = "mullama"
    hook_name: ClassVar[str] = "Mullama"

    def __init__(self, mullama_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.mullama_conn_id = mullama_conn_id

    def defaults(self) -> ConnectionDefaults:
        """The connection's defaults.

        Raises:
            ConfigurationError: the connection is named and missing, or its extra is not as it should be.
        """
        try:
            extra = self.get_connection(self.mullama_conn_id).extra_dejson
        except AirflowNotFoundException as error:
            if self.mullama_conn_id == self.default_conn_name:
                return ConnectionDefaults()
            raise ConfigurationError(
                f"There is no connection {self.mullama_conn_id!r}; create it (type mullama), or leave mullama_conn_id "
                "out."
            ) from error
        options = extra.get("engine_options") or {}
        if not isinstance(options, Mapping):
            raise ConfigurationError(
                f"The connection {self.mullama_conn_id!r} has engine_options {options!r} in its extra; it must be an "
                'object such as {"n_ctx": 4096}.'
            )
        return ConnectionDefaults(extra.get("model") or None, extra.get("engine") or None, dict(options))
