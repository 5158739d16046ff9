"""Checking ``engine_options`` before a process is started with them: some values hang or abort llama.cpp."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_mullama.arguments import Check, require
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.redaction.credentials import Secret


def read_key(value: object, name: str) -> Secret:
    """An API key as it is sent: without the white space around it that copying and files leave there.

    Args:
        value: what was given.
        name: of where it was given, for people.

    Raises:
        ConfigurationError: it is not a key; its value is quoted nowhere.
    """
    key = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(r"[!-~]+", key):
        # HTTP would refuse it too, with an error that quotes it.
        raise ConfigurationError(
            f"{name} is not a key (it is not shown here); a key is a text of ASCII characters without spaces or line "
            "ends in it."
        )
    return Secret(key)


def validate_options(engine: str, checks: Mapping[str, Check], options: Mapping[str, Any]) -> None:
    """Refuse an unknown option or a value out of range.

    Raises:
        ConfigurationError: names the option, the value and what it may be.
    """
    for name, value in options.items():
        check = checks.get(name)
        if check is None:
            raise ConfigurationError(
                f"engine_options has {name!r}, which the engine {engine!r} does not know; it knows: "
                f"{', '.join(sorted(checks))}."
            )
        require(f"engine_options[{name!r}]", value, check)


def parse_engine_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Turn ``["n_ctx=8192", "flash_attn=true"]`` into a dictionary; values are JSON, else text.

    Raises:
        ConfigurationError: an item without ``=``.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"--option {pair!r} is not of the form NAME=VALUE, such as n_ctx=8192.")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options
