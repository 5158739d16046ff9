"""Choosing partitions by the values of their hive keys.

Values are compared as what they look like: numbers where both are numbers, points in time where both are ISO 8601 dates
or times (without a zone: UTC; a date alone stands for its whole day), else texts. So ``3`` is ``03``, and ``10`` comes
after ``9``.
"""

from __future__ import annotations

import datetime
import decimal
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.storage.hive import NULL_VALUE, HiveValues, hive_values

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_MOMENT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"([Tt _]([0-9]{2})(?::?([0-9]{2})(?::?([0-9]{2})(?:\.([0-9]{1,9}))?)?)?([Zz]|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_RANGE_KEYS = frozenset({"from", "to"})
_SPELLINGS = (
    "give a value ('2026-01-31'), a list of values, or a range {'from': '2026-01-01', 'to': '2026-01-31'}, both ends "
    "included"
)


@dataclass(frozen=True)
class _Moment:
    """A point in time, or a whole day."""

    at: datetime.datetime
    whole_day: bool


@dataclass(frozen=True)
class AnyOf:
    """Any of these values."""

    values: tuple[str | None, ...]

    def matches(self, value: str | None) -> bool:
        return any(_same(value, wanted) for wanted in self.values)

    def __str__(self) -> str:
        return " or ".join("null" if value is None else value for value in self.values)


@dataclass(frozen=True)
class Range:
    """From one value to another, both included; ``None`` is an open end."""

    low: str | None
    high: str | None

    def matches(self, value: str | None) -> bool:
        if value is None:
            return False
        after = self.low is None or compare_values(value, self.low) >= 0
        return after and (self.high is None or compare_values(value, self.high) <= 0)

    def __str__(self) -> str:
        return f"from {self.low or 'the first'} to {self.high or 'the last'}"


@dataclass(frozen=True)
class HiveFilter:
    """Which partitions to take; made by :meth:`parse`.

    Args:
        conditions: one for each key; all must hold.
    """

    conditions: tuple[tuple[str, AnyOf | Range], ...]

    @classmethod
    def parse(cls, where: Mapping[str, Any]) -> HiveFilter:
        """Read a filter such as ``{"ds": {"from": "2026-01-01"}, "region": ["eu", "us"]}``.

        Raises:
            ConfigurationError: it is not written like that.
        """
        if not isinstance(where, Mapping) or not where:
            raise ConfigurationError(
                f"where is {where!r}; it must be a dictionary of hive keys, such as {{'ds': '2026-01-31'}}."
            )
        conditions: list[tuple[str, AnyOf | Range]] = []
        for key, condition in where.items():
            if not isinstance(key, str) or not key or "=" in key or "/" in key:
                raise ConfigurationError(
                    f"where has the key {key!r}; a key is what stands before '=' in ds=2026-01-31."
                )
            conditions.append((key, _condition(key, condition)))
        return cls(tuple(conditions))

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys it names."""
        return tuple(key for key, _ in self.conditions)

    def matches(self, values: HiveValues) -> bool:
        """Whether a partition with these values is wanted. One that lacks a key is not."""
        return all(key in values and condition.matches(values[key]) for key, condition in self.conditions)

    def may_match(self, segment: str) -> bool:
        """Whether anything below a directory of this name can be wanted."""
        values = hive_values(segment)
        return all(key not in values or condition.matches(values[key]) for key, condition in self.conditions)

    def __str__(self) -> str:
        return ", ".join(f"{key} {condition}" for key, condition in self.conditions)


def compare_values(value: str, other: str) -> int:
    """Negative, zero or positive, as ``value`` comes before, is, or comes after ``other``."""
    number, other_number = _number(value), _number(other)
    if number is not None and other_number is not None:
        return (number > other_number) - (number < other_number)
    moment, other_moment = _moment(value), _moment(other)
    if moment is not None and other_moment is not None:
        if moment.whole_day or other_moment.whole_day:
            day, other_day = moment.at.date(), other_moment.at.date()
            return (day > other_day) - (day < other_day)
        return (moment.at > other_moment.at) - (moment.at < other_moment.at)
    return (value > other) - (value < other)


def day_of(value: str) -> datetime.date | None:
    """The day (of UTC) that a value is compared as, or that its point in time lies in; ``None`` where it has none."""
    moment = _moment(value)
    return None if moment is None else moment.at.date()


def kind_of(value: str) -> str:
    """What a value is compared as: ``number``, ``moment`` or ``text``."""
    if _number(value) is not None:
        return "number"
    return "text" if _moment(value) is None else "moment"


def describe_values(values: Iterable[str | None]) -> str:
    """A key's values in few words, for a message."""
    texts = sorted({NULL_VALUE if value is None else value for value in values})
    return ", ".join(texts) if len(texts) <= 3 else f"{texts[0]} … {texts[-1]} ({len(texts)} values)"


def _condition(key: str, condition: Any) -> AnyOf | Range:
    if isinstance(condition, Mapping):
        if not condition or not set(condition) <= _RANGE_KEYS:
            raise ConfigurationError(f"where has {condition!r} for {key!r}; {_SPELLINGS}.")
        low, high = (_value_text(key, condition[end]) if end in condition else None for end in ("from", "to"))
        if low is not None and high is not None and compare_values(low, high) > 0:
            raise ConfigurationError(f"where has a range for {key!r} that ends ({high}) before it begins ({low}).")
        return Range(low, high)
    if isinstance(condition, Sequence) and not isinstance(condition, str):
        if not condition:
            raise ConfigurationError(f"where has an empty list for {key!r}; {_SPELLINGS}.")
        return AnyOf(tuple(None if value is None else _value_text(key, value) for value in condition))
    return AnyOf((None if condition is None else _value_text(key, condition),))


def _value_text(key: str, value: Any) -> str:
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, str) or (isinstance(value, (int, float, decimal.Decimal)) and not isinstance(value, bool)):
        return str(value)
    raise ConfigurationError(f"where has {value!r} for {key!r}; {_SPELLINGS}.")


def _same(value: str | None, wanted: str | None) -> bool:
    if value is None or wanted is None:
        return value is wanted
    return compare_values(value, wanted) == 0


def _number(text: str) -> decimal.Decimal | None:
    return decimal.Decimal(text) if _NUMBER.fullmatch(text) else None


def _moment(text: str) -> _Moment | None:
    match = _MOMENT.fullmatch(text)
    if match is None:
        return None
    year, month, day, time, hour, minute, second, fraction, zone = match.groups()
    try:
        at = datetime.datetime(
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "").ljust(6, "0")[:6]),
            tzinfo=_zone(zone),
        )
        return _Moment(at.astimezone(datetime.timezone.utc), time is None)
    except (ValueError, OverflowError):  # such as 2026-02-30: a text like any other
        return None


def _zone(text: str | None) -> datetime.timezone:
    if text is None or text in "Zz":
        return datetime.timezone.utc
    minutes = int(text[1:3]) * 60 + int(text[-2:])
    return datetime.timezone(datetime.timedelta(minutes=-minutes if text[0] == "-" else minutes))
