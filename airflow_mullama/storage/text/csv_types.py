"""The Arrow type of a column of CSV, from all of its values.

A column becomes a number only where each of its values is one and stays what it is: ``007`` and what has more digits
than ``int64`` or ``float64`` keep are texts, as are dates and times.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

INTEGER = "^(0|-?[1-9][0-9]{0,18})$"
NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$"
# float64 keeps 17 digits of a fraction; of integers, those up to 2**53.
KEPT_DIGITS = "^-?[0.]*([1-9][0-9.]{0,17})?([eE].*)?$"
LONG_INTEGER = "^-?[0-9]{16,}$"
BOOLEAN = "^(true|false|True|False|TRUE|FALSE)$"


class CsvType:
    """What the values of one column that were seen may all be."""

    def __init__(self) -> None:
        self._seen = False
        self._candidates = {"integer", "number", "boolean"}

    def add(self, texts: pa.StringArray) -> None:
        """Take values into account; nulls say nothing."""
        values = texts.drop_null()
        if not len(values) or not self._candidates:
            self._seen = self._seen or bool(len(values))
            return
        self._seen = True
        checks = {"integer": _are_integers, "number": _are_numbers, "boolean": _are_booleans}
        self._candidates = {name for name in self._candidates if checks[name](values)}

    def arrow_type(self) -> pa.DataType:
        """``int64``, ``float64``, ``bool`` or ``string``."""
        if not self._seen:
            return pa.string()
        if "integer" in self._candidates:
            return pa.int64()
        if "number" in self._candidates:
            return pa.float64()
        return pa.bool_() if "boolean" in self._candidates else pa.string()


def _all_match(values: pa.StringArray, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())


def _are_integers(values: pa.StringArray) -> bool:
    if not _all_match(values, INTEGER):
        return False
    try:
        values.cast(pa.int64())
    except pa.ArrowInvalid:
        return False
    return True


def _are_numbers(values: pa.StringArray) -> bool:
    if not (_all_match(values, NUMBER) and _all_match(values, KEPT_DIGITS)):
        return False
    if pc.any(pc.match_substring_regex(values, LONG_INTEGER)).as_py():
        return False
    return bool(pc.all(pc.is_finite(values.cast(pa.float64()))).as_py())


def _are_booleans(values: pa.StringArray) -> bool:
    return _all_match(values, BOOLEAN)
