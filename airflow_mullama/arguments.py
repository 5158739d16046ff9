"""What an argument may be, and the one sentence for a value that it may not be."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union

from airflow_mullama.errors import ConfigurationError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Whole:
    """A whole number from ``low`` to ``high``, or without an upper end."""

    low: int
    high: int | None = None

    def accepts(self, value: object) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return self.low <= value and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        return f"a whole number from {self.low}" + ("" if self.high is None else f" to {self.high}")


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


@dataclass(frozen=True)
class OrNone:
    """What another check accepts, or ``None``."""

    check: Whole | Number | OneOf | OfType

    def accepts(self, value: object) -> bool:
        return value is None or self.check.accepts(value)

    def __str__(self) -> str:
        return f"{self.check}, or None"


Check = Union[Whole, Number, OneOf, OfType, Checked, OrNone]  # noqa: UP007 - a runtime value


def require(name: str, value: object, check: Check) -> None:
    """Refuse an argument that is not what it may be.

    Args:
        name: as the user wrote it, such as ``max_retries`` or ``sampling['top_k']``.
        value: what was given.
        check: what it may be.

    Raises:
        ConfigurationError: names the argument, the value and what it may be.
    """
    if not check.accepts(value):
        raise ConfigurationError(f"{name} is {value!r}; it must be {check}.")


def refuse_url(name: str, path: object) -> None:
    """Refuse a URL where the path of a file of this machine is meant; it is not quoted, for it may hold a key.

    Args:
        name: of the argument, as the user wrote it.
        path: what was given.

    Raises:
        ConfigurationError: it is a URL.
    """
    if isinstance(path, str) and _URL.match(path):
        raise ConfigurationError(
            f"{name} is a URL (it is not shown here: it may hold a key); it must be the path of a file on this machine."
        )


def from_text(value: object, check: Check) -> object:
    """What a text stands for where a number or a truth value is meant: ``"64"`` for 64, ``"True"`` for ``True``.

    Whatever a template was made of, what is rendered is a text. One that stands for nothing of the kind is returned as
    it is, for :func:`require` to refuse by name.
    """
    if not isinstance(value, str):
        return value
    if isinstance(check, OrNone):
        return None if value == "None" else from_text(value, check.check)
    if isinstance(check, OneOf):
        meant = {str(allowed): allowed for allowed in check.values}
        return meant.get(value, value)
    if isinstance(check, (Whole, Number)):
        if re.fullmatch(r"[+-]?[0-9]+", value):
            return int(value)
        if isinstance(check, Number) and re.fullmatch(r"[+-]?([0-9]+\.[0-9]*|\.?[0-9]+)([eE][+-]?[0-9]+)?", value):
            return float(value)
    return value


def require_one_of_two(first_name: str, first: object, second_name: str, second: object) -> None:
    """Refuse two arguments of which not exactly one is given.

    Raises:
        ConfigurationError: names both.
    """
    if (first is None) == (second is None):
        raise ConfigurationError(f"Give either {first_name} or {second_name}, exactly one of the two.")
