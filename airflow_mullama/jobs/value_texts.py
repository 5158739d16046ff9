"""Values of a column as the texts that stand for them in a prompt.

Texts stand as they are, numbers as JSON writes them, dates, times and durations by ISO 8601, lists, structs and maps as
JSON. What a value is decides its type in Arrow, at any depth, and nothing of Python shows.
"""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types


@dataclass(frozen=True)
class NoText:
    """A value that cannot be written as text.

    Args:
        reason: what its column does: "holds bytes that are not UTF-8".
    """

    reason: str


Text = Union[str, NoText, None]  # noqa: UP007 - a runtime value
"""What stands for a value; ``None`` for a null."""

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
DAY, HOUR, MINUTE = 86_400, 3_600, 60
# JSON has no numbers for these; its writers call them so.
NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def value_texts(array: pa.Array) -> list[Text]:
    """One text for each value. Never raises for what a value is."""
    return _texts(array, as_json=False)


def _texts(array: pa.Array, *, as_json: bool) -> list[Text]:
    """One text for each value; inside of lists and structs as JSON, so that texts stand in quotes."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name != "arrow.uuid":
        return _texts(array.storage, as_json=as_json)
    if types.is_dictionary(kind):
        known = _texts(array.dictionary, as_json=as_json)
        return [None if place is None else known[place] for place in array.indices.to_pylist()]
    if types.is_run_end_encoded(kind):
        return _texts(pc.run_end_decode(array), as_json=as_json)
    if types.is_struct(kind):
        return _structs(array)
    if types.is_map(kind):
        return _maps(array)
    if types.is_nested(kind) and hasattr(array, "flatten") and not types.is_union(kind):
        return _lists(array)
    if types.is_boolean(kind):
        return _each(array, lambda value: "true" if value else "false")
    if types.is_integer(kind):
        return _each(array, str)
    if types.is_decimal(kind):
        return _each(array, lambda value: format(value, "f"))
    texts = _floats(array) if types.is_floating(kind) else _plain(array)
    if not as_json:
        return texts
    bare = types.is_floating(kind)
    return [
        json.dumps(text, ensure_ascii=False)
        if isinstance(text, str) and (not bare or text in NOT_FINITE.values())
        else text
        for text in texts
    ]


def _plain(array: pa.Array) -> list[Text]:
    """Values that stand in quotes in JSON."""
    kind = array.type
    if types.is_date(kind):
        return _dates(array)
    if types.is_timestamp(kind):
        return _timestamps(array)
    if types.is_time(kind):
        return _counts(array, _time)
    if types.is_duration(kind):
        return _counts(array, _duration)
    if isinstance(kind, pa.BaseExtensionType):
        return _each(array.storage, lambda value: str(uuid.UUID(bytes=value)))
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return _each(array, str)
    if any(is_kind(kind) for is_kind in (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)):
        return _each(array, bytes.decode)
    if types.is_binary_view(kind):
        return _each(array, bytes.decode)
    no_text = NoText(f"is of the type {kind}, for which there is no text")
    return [no_text if valid else None for valid in array.is_valid().to_pylist()]


def _each(array: pa.Array, write: Callable[[Any], str]) -> list[Text]:
    try:
        values = array.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):  # one undecodable value must not cost its batch
        return [_one(scalar.as_py, write) for scalar in array]
    try:
        return [None if value is None else write(value) for value in values]
    except ValueError:
        return [_one(lambda value=value: value, write) for value in values]  # type: ignore[misc]


def _one(read: Callable[[], Any], write: Callable[[Any], str]) -> Text:
    try:
        value = read()
        return None if value is None else write(value)
    except UnicodeDecodeError as error:
        return NoText(f"holds bytes that are not UTF-8: {error.reason}")
    except (ValueError, OverflowError, pa.ArrowException) as error:
        return NoText(f"cannot be read as a value: {error}")


# --- numbers, dates and times -----------------------------------------------------------------------------------------


def _floats(array: pa.Array) -> list[Text]:
    """As few digits as tell the number from all others of its width."""
    numbers = array.fill_null(0).to_numpy(zero_copy_only=False)
    texts = [NOT_FINITE.get(text, text) for text in map(str, numbers)]
    return [text if valid else None for text, valid in zip(texts, array.is_valid().to_pylist(), strict=True)]


def _integers(array: pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """What counts days, or parts of a second; 0 for a null."""
    width = pa.int32() if array.type.bit_width == 32 else pa.int64()
    return np.asarray(array.view(width).fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def _dates(array: pa.Array) -> list[Text]:
    days = _integers(array)
    if types.is_date64(array.type):
        days = days // (DAY * 1000)
    texts = np.datetime_as_string(days.astype("datetime64[D]")).tolist()
    return [text if valid else None for text, valid in zip(texts, array.is_valid().to_pylist(), strict=True)]


def _timestamps(array: pa.Array) -> list[Text]:
    per_second = PER_SECOND[array.type.unit]
    seconds, parts = np.divmod(_integers(array), per_second)
    texts = np.datetime_as_string(seconds.astype("datetime64[s]")).tolist()
    fractions = [_fraction(part, per_second) for part in parts.tolist()]
    if array.type.tz is None:
        found = [text + fraction for text, fraction in zip(texts, fractions, strict=True)]
    else:
        local = _local(seconds, array.type.tz)
        found = [
            # Beyond what Python's calendar knows there is no zone, and the time is that of UTC.
            f"{text}{fraction}+00:00" if here is None else f"{here[:19]}{fraction}{here[19:]}"
            for text, fraction, here in zip(texts, fractions, local, strict=True)
        ]
    return [text if valid else None for text, valid in zip(found, array.is_valid().to_pylist(), strict=True)]


def _local(seconds: np.ndarray[Any, np.dtype[np.int64]], zone: str) -> list[str | None]:
    """Whole seconds as the wall clock of a zone shows them, with its offset."""

    def iso(scalar: pa.Scalar) -> str | None:
        try:
            moment: datetime.datetime = scalar.as_py()
            return moment.isoformat()
        except (ValueError, OverflowError, LookupError, pa.ArrowException):
            return None

    return [iso(scalar) for scalar in pa.array(seconds, pa.timestamp("s", zone))]


def _counts(array: pa.Array, write: Callable[[int, int], str]) -> list[Text]:
    per_second = PER_SECOND[array.type.unit]
    valid = array.is_valid().to_pylist()
    return [
        write(count, per_second) if there else None
        for count, there in zip(_integers(array).tolist(), valid, strict=True)
    ]


def _time(count: int, per_second: int) -> str:
    seconds, part = divmod(count, per_second)
    return f"{seconds // HOUR:02}:{seconds // MINUTE % 60:02}:{seconds % 60:02}{_fraction(part, per_second)}"


def _duration(count: int, per_second: int) -> str:
    seconds, part = divmod(abs(count), per_second)
    days, rest = divmod(seconds, DAY)
    fraction = _fraction(part, per_second).rstrip("0")
    time = (f"{rest // HOUR}H" if rest >= HOUR else "") + (f"{rest // MINUTE % 60}M" if rest // MINUTE % 60 else "")
    if rest % 60 or fraction or not seconds:
        time += f"{rest % 60}{fraction}S"
    return ("-" if count < 0 else "") + "P" + (f"{days}D" if days else "") + (f"T{time}" if time else "")


def _fraction(part: int, per_second: int) -> str:
    """Six digits, or nine where they say more; none for a whole second."""
    nanoseconds = part * (PER_SECOND["ns"] // per_second)
    if nanoseconds == 0:
        return ""
    return f".{nanoseconds:09}" if nanoseconds % 1000 else f".{nanoseconds // 1000:06}"


# --- what holds other values ------------------------------------------------------------------------------------------


def _joined(parts: Sequence[Text], around: str) -> Text:
    """Parts of a JSON list or object, or the first of them that cannot be written."""
    for part in parts:
        if isinstance(part, NoText):
            return part
    return around[0] + ", ".join("null" if part is None else str(part) for part in parts) + around[1]


def _structs(array: pa.StructArray) -> list[Text]:
    names = [json.dumps(array.type.field(place).name, ensure_ascii=False) for place in range(array.type.num_fields)]
    columns = [_texts(array.field(place), as_json=True) for place in range(len(names))]
    rows = zip(*columns, strict=True) if columns else [()] * len(array)
    return [
        _joined([_entry(name, value) for name, value in zip(names, row, strict=True)], "{}") if valid else None
        for row, valid in zip(rows, array.is_valid().to_pylist(), strict=True)
    ]


def _entry(key: str, value: Text) -> Text:
    return value if isinstance(value, NoText) else f"{key}: {'null' if value is None else value}"


def _lists(array: pa.Array) -> list[Text]:
    entries = _texts(array.flatten(), as_json=True)  # of lists that are not null
    found: list[Text] = []
    start = 0
    for length in array.value_lengths().to_pylist():
        found.append(None if length is None else _joined(entries[start : start + length], "[]"))
        start += length or 0
    return found


def _maps(array: pa.MapArray) -> list[Text]:
    offsets = array.offsets.to_pylist()
    first, count = offsets[0], offsets[-1] - offsets[0]
    keys = _texts(array.keys.slice(first, count), as_json=False)
    values = _texts(array.items.slice(first, count), as_json=True)
    entries = [
        key if isinstance(key, NoText) else _entry(json.dumps(key, ensure_ascii=False), value)
        for key, value in zip(keys, values, strict=True)
    ]
    borders = zip(offsets, offsets[1:], array.is_valid().to_pylist(), strict=False)
    return [_joined(entries[start - first : stop - first], "{}") if valid else None for start, stop, valid in borders]
