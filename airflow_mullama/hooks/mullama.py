"""The ``mullama`` connection: defaults for model, engine and engine options, kept in one place for many DAGs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from airflow.sdk import BaseHook

from airflow_mullama.compat import AirflowNotFoundException, mask_secret, setting
from airflow_mullama.errors import ConfigurationError, MullamaError
from airflow_mullama.hooks.connection import ENDPOINT_ENGINE, ConnectionDefaults, read_connection
from airflow_mullama.redaction.credentials import Secret, spellings


class MullamaHook(BaseHook):
    """Reads a connection of type ``mullama``.

    Its form has a model, an engine, the engine's most used options, and endpoint and key of an API; its extra takes
    further options: ``{"engine_options": {"flash_attn": true}}``.

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
        """The connection's defaults. From here on no log shows its secrets.

        Raises:
            ConfigurationError: the connection is named and missing, or a field of it is not as it should be.
        """
        try:
            connection = self.get_connection(self.mullama_conn_id)
        except AirflowNotFoundException as error:
            if self.mullama_conn_id == self.default_conn_name:
                return ConnectionDefaults()
            raise ConfigurationError(
                f"There is no connection {self.mullama_conn_id!r}; create it (type mullama), or leave mullama_conn_id "
                "out."
            ) from error
        # Before anything is said of another field.
        for value in (connection.password, *_keys_in(connection.extra_dejson.get("engine_options"))):
            _hide(value)
        return read_connection(connection)

    def engine_arguments(
        self,
        model: str | None = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
        model_sha256: str | None = None,
    ) -> dict[str, Any]:
        """A job's ``model``, ``model_sha256``, ``engine`` and ``engine_options``.

        What is given here wins over the connection, the connection over Airflow's configuration (``[mullama]
        default_model`` and ``default_engine``).

        Args:
            model, engine: an operator's; ``None`` where it leaves them to the connection.
            engine_options: over those of the connection, one by one.
            model_sha256: an operator's; that of the connection goes with the connection's model only.

        Raises:
            ConfigurationError: there is no model anywhere, or no such engine.
        """
        from airflow_mullama.engines.registry import engine_spec

        if engine_options is not None and not isinstance(engine_options, Mapping):
            raise ConfigurationError(
                f"engine_options must be a dictionary such as {{'n_ctx': 4096}}, not {engine_options!r}."
            )
        given = dict(engine_options or {})
        for key in _keys_in(given):
            _hide(key)
        defaults = self.defaults()
        of_connection = defaults.model_sha256 if defaults.model and model in (None, "", defaults.model) else None
        model = model or defaults.model or setting("default_model", "")
        if not model:
            raise ConfigurationError(
                f"No model: give model=, set it in the connection {self.mullama_conn_id!r} (field 'Model'), or in "
                "Airflow's configuration ([mullama] default_model)."
            )
        engine = engine or defaults.engine or setting("default_engine", "auto") or "auto"
        spec = engine_spec(engine, model)
        options = {**defaults.options_for(spec.name, spec.checks), **given}
        if spec.name == ENDPOINT_ENGINE:
            from airflow_mullama.engines.openai.options import key_in_environment

            _hide(key_in_environment(options))
        return {
            "model": model,
            "model_sha256": model_sha256 or (of_connection if spec.needs_model_file else None),
            "engine": engine,
            "engine_options": options,
        }

    def test_connection(self) -> tuple[bool, str]:
        """Load the model in a process of its own and end it, or ask the endpoint which models it has.

        Returns:
            Whether it works, and a sentence.
        """
        from airflow_mullama.hooks.connection_trial import call_endpoint, load_model
        from airflow_mullama.hooks.filesystems import resolve_in_task

        try:
            seconds = float(setting("connection_test_seconds", "120"))
            defaults = self.defaults()
            if (defaults.engine or setting("default_engine", "auto")) == ENDPOINT_ENGINE:
                options = defaults.options_for(ENDPOINT_ENGINE, ())
                return True, call_endpoint(options, defaults.model, seconds)
            return True, load_model(self.engine_arguments(), resolve_in_task, seconds)
        except MullamaError as error:
            return False, str(error)


def _keys_in(options: object) -> list[str]:
    from airflow_mullama.engines.openai.request_options import secrets_in

    return secrets_in(options) if isinstance(options, Mapping) else []


def _hide(key: object) -> None:
    """See to it that neither Airflow's logs and pages nor our own words show a key, in any spelling of it."""
    if isinstance(key, str) and key.strip():
        for text in dict.fromkeys([key, *spellings(Secret(key.strip()))]):
            mask_secret(text)
