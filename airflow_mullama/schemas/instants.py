"""Dates and points in time, as JSON Schema's ``date`` and ``date-time`` write them (RFC 3339)."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from airflow_mullama.schemas.values import Mismatch, Value, shown

_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_DATE_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_STORAGE = re.compile(r"timestamp\[(ms|us|ns)(?:, tz=(.+))?\]")
# The range of 64 bits of nanoseconds, cut to whole days.
_FIRST_NANOSECOND_DAY = datetime.datetime(1677, 9, 22, tzinfo=datetime.timezone.utc)
_LAST_NANOSECOND_DAY = datetime.datetime(2262, 4, 11, tzinfo=datetime.timezone.utc)


@dataclass(frozen=True, kw_only=True)
class DateValue(Value):
    """A day, such as ``2024-02-29``."""

    type_name: ClassVar[str] = "string"

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.date32()

    def keywords(self) -> dict[str, Any]:
        return {"format": "date"}

    def read_present(self, raw: Any, path: str) -> datetime.date:
        match = _DATE.fullmatch(raw) if isinstance(raw, str) else None
        if match is None:
            raise Mismatch(path, f"{shown(raw)} is not a date such as 2024-02-29")
        try:
            return datetime.date(*(int(part) for part in match.groups()))
        except ValueError as error:
            raise Mismatch(path, f"{shown(raw)} is not a date: {error}") from None


@dataclass(frozen=True, kw_only=True)
class TimestampValue(Value):
    """A point in time with its offset from UTC, such as ``2024-02-29T12:30:00Z``.

    It is kept in UTC (a column of another zone shows the same instant); digits that the column's unit cannot hold are
    cut off. The leap second (``:60``) is refused: no Arrow timestamp can hold it.
    """

    type_name: ClassVar[str] = "string"

    @property
    def arrow_type(self) -> pa.DataType:
        match = _STORAGE.fullmatch(self.storage or "timestamp[us, tz=UTC]")
        assert match is not None
        return pa.timestamp(match[1], match[2])

    def keywords(self) -> dict[str, Any]:
        return {"format": "date-time"}

    def read_present(self, raw: Any, path: str) -> datetime.datetime:
        match = _DATE_TIME.fullmatch(raw) if isinstance(raw, str) else None
        if match is None:
            raise Mismatch(path, f"{shown(raw)} is not a date-time with an offset, such as 2024-02-29T12:30:00Z")
        *parts, fraction, sign, hours, minutes = match.groups()
        if parts[5] == "60":
            raise Mismatch(path, f"{shown(raw)} is a leap second, which a timestamp cannot hold")
        try:
            offset = datetime.timedelta()
            if sign:
                clock = datetime.time(int(hours), int(minutes))
                offset = datetime.timedelta(hours=clock.hour, minutes=clock.minute) * (1 if sign == "+" else -1)
            year, month, day, hour, minute, second = (int(part) for part in parts)
            microsecond = int((fraction or "").ljust(6, "0")[:6])
            local = datetime.datetime(year, month, day, hour, minute, second, microsecond, tzinfo=datetime.timezone.utc)
            instant = local - offset
        except (ValueError, OverflowError) as error:
            raise Mismatch(path, f"{shown(raw)} is not a date-time: {error}") from None
        return self._stored(instant, raw, path)

    def _stored(self, instant: datetime.datetime, raw: str, path: str) -> datetime.datetime:
        arrow_type = self.arrow_type
        if arrow_type.unit == "ns" and not _FIRST_NANOSECOND_DAY <= instant < _LAST_NANOSECOND_DAY:
            raise Mismatch(path, f"{shown(raw)} does not fit into {arrow_type}")
        if arrow_type.unit == "ms":
            instant = instant.replace(microsecond=instant.microsecond // 1000 * 1000)
        return instant if arrow_type.tz else instant.replace(tzinfo=None)


def is_timestamp_storage(storage: str) -> bool:
    """Whether a column of this Arrow type, by its name, can hold date-times and is read back from Parquet as it is."""
    return _STORAGE.fullmatch(storage) is not None
