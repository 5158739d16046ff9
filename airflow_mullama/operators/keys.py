"""Keys that stand in a DAG's ``engine_options`` as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_mullama.operators.templates import is_template

# Options of an engine in which there may be keys.
KEY_OPTIONS = ("api_key", "headers", "query", "extra_body")


def keys_apart(options: Any) -> tuple[dict[str, Any], Any]:
    """The options in which keys stand as they are, and not as templates of keys; and the other options."""
    if not isinstance(options, Mapping) or not any(name in options for name in KEY_OPTIONS):
        return {}, options
    from airflow_mullama.engines.openai.request_options import secrets_in

    keys = {
        name: options[name]
        for name in KEY_OPTIONS
        if (found := secrets_in({name: options.get(name)})) and not any(map(is_template, found))
    }
    return keys, {name: value for name, value in options.items() if name not in keys}
