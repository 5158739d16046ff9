"""Lengths, counts and ranges of a JSON Schema, as numbers that can be relied on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from airflow_mullama.schemas.refusal import refuse
from airflow_mullama.schemas.values import integer_range, shown


def count(schema: Mapping[str, Any], keyword: str, most: int, path: str) -> int | None:
    """A keyword that counts items or characters, or ``None`` if it is not there.

    Raises:
        ConfigurationError: it is not a count, or it is more than ``most``.
    """
    if keyword not in schema:
        return None
    number = schema[keyword]
    if isinstance(number, bool) or not isinstance(number, (int, float)) or number < 0 or number != number // 1:
        raise refuse(path, f"has {keyword} {shown(number)}", "write a whole number of 0 or more")
    if number > most:
        raise refuse(
            path, f"has {keyword} {shown(number)}", f"the most that engines take is {most}; remove it or lower it"
        )
    return int(number)


def _bound(schema: Mapping[str, Any], keyword: str, path: str) -> int | float | None:
    if keyword not in schema:
        return None
    bound: int | float = schema[keyword]
    if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not _is_finite(bound):
        raise refuse(path, f"has {keyword} {shown(bound)}", "write a finite number")
    return bound


def _is_finite(bound: int | float) -> bool:
    try:
        return math.isfinite(bound)
    except OverflowError:  # an integer larger than any double
        return False


def integer_bounds(schema: Mapping[str, Any], storage: str, path: str) -> dict[str, Any]:
    """The range of an integer, inclusive; ``None`` where the column's type is the limit.

    Raises:
        ConfigurationError: a bound is not a number, or the bounds leave no integer.
    """
    least, greatest = integer_range(storage)
    minimum, maximum = least, greatest
    if (bound := _bound(schema, "minimum", path)) is not None:
        minimum = max(minimum, math.ceil(bound))
    if (bound := _bound(schema, "exclusiveMinimum", path)) is not None:
        minimum = max(minimum, math.floor(bound) + 1)
    if (bound := _bound(schema, "maximum", path)) is not None:
        maximum = min(maximum, math.floor(bound))
    if (bound := _bound(schema, "exclusiveMaximum", path)) is not None:
        maximum = min(maximum, math.ceil(bound) - 1)
    if minimum > maximum:
        raise refuse(path, "allows no integer that fits its column", "correct its minimum or maximum")
    # Said whenever it is narrower than 64 bits, so that engines and readers of the schema know it too.
    return {
        "minimum": minimum if minimum > -(2**63) else None,
        "maximum": maximum if maximum < 2**63 - 1 or least < maximum < greatest else None,
    }


def number_bounds(schema: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The range of a number; of an inclusive and an exclusive bound on one side, the tighter one.

    Raises:
        ConfigurationError: a bound is not a number, or the bounds leave none.
    """
    minimum, maximum = _bound(schema, "minimum", path), _bound(schema, "maximum", path)
    above, below = _bound(schema, "exclusiveMinimum", path), _bound(schema, "exclusiveMaximum", path)
    if minimum is not None and above is not None:
        minimum, above = (minimum, None) if minimum > above else (None, above)
    if maximum is not None and below is not None:
        maximum, below = (maximum, None) if maximum < below else (None, below)
    lower = minimum if minimum is not None else above
    upper = maximum if maximum is not None else below
    if lower is not None and upper is not None:
        open_ended = above is not None or below is not None
        if lower > upper or (lower == upper and open_ended):
            raise refuse(path, "allows no number", "correct its minimum or maximum")
    return {"minimum": minimum, "exclusive_minimum": above, "maximum": maximum, "exclusive_maximum": below}
