"""Checking ``engine_options`` before a process is started with them: some values hang or abort llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from airflow_mullama.errors import ConfigurationError


class Secret(str):
    """A text that no ``repr`` shows, so that neither logs nor error messages do that quote what it stands in."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True)
class Whole:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int

    def accepts(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Number:
    """A number from ``low`` to ``high``."""

    low: float
    high: float

    def accepts(self, value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple[object, ...]

    def accepts(self, value: object) -> bool:
        return any(type(value) is type(allowed) and value == allowed for allowed in self.values)

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.values))


@dataclass(frozen=True)
class OfType:
    """Any value of a type."""

    type_: type
    words: str

    def accepts(self, value: object) -> bool:
        return isinstance(value, self.type_)

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Checked:
    """A value that a function of the engine checks, by raising ConfigurationError."""

    check: Callable[[Any], object]

    def accepts(self, value: object) -> bool:
        self.check(value)
        return True


Check = Union[Whole, Number, OneOf, OfType, Checked]  # noqa: UP007 - a runtime value


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
        if not check.accepts(value):
            raise ConfigurationError(f"engine_options[{name!r}] is {value!r}; it must be {check}.")


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
