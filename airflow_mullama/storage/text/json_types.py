"""The Arrow type of a column of JSON, from all of its values.

Nothing is guessed from a text: a string stays one, whatever it looks like. Integers are ``int64``; with fractions among
them ``float64``, if that holds each of them exactly.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa

LARGEST_EXACT = 1 << 53
"""Up to here ``float64`` holds every integer."""

_KINDS: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


class ContradictionError(Exception):
    """Values of one column that no one type holds.

    Args:
        reason: what contradicts what.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []

    def sentence(self) -> str:
        """Which column, and why."""
        return f"column {'.'.join(self.path)!r} {self.reason}"


class Line(NamedTuple):
    """Where a value stands, for messages."""

    number: int
    file: str = ""

    def seen_from(self, other: Line) -> str:
        """In words, where the other line's file is known."""
        return f"line {self.number}" + ("" if self.file == other.file else f" of {self.file!r}")


class FieldCount:
    """How many fields the columns of one input have, at all depths.

    Args:
        most: beyond it, :class:`ContradictionError`.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0

    def add(self) -> None:
        """One more."""
        self.count += 1
        if self.count > self.most:
            raise ContradictionError(
                f"would be one of more than {self.most} columns and fields; make the names that vary values instead"
            )


class JsonType:
    """What is known of a column, a field or the elements of an array by the values that were seen.

    Args:
        count: shared by all of one input.
    """

    __slots__ = ("count", "element", "fields", "kind", "line", "wide_line")

    def __init__(self, count: FieldCount) -> None:
        self.count = count
        self.kind: str | None = None
        self.line = Line(0)
        self.wide_line: Line | None = None
        self.fields: dict[str, JsonType] = {}
        self.element: JsonType | None = None

    def add(self, value: Any, line: Line) -> None:
        """Take a value into account.

        Args:
            value: as :mod:`json` gives it.
            line: where it stands.

        Raises:
            ContradictionError: no type holds this value and those before.
        """
        if value is None:
            return
        kind = _KINDS[type(value)]
        if kind != self.kind:
            self._become(kind, line)
        if kind == "object":
            for name, held in value.items():
                try:
                    field = self.fields.get(name)
                    if field is None:
                        self.count.add()
                        field = self.fields[name] = JsonType(self.count)
                    if held is not None:
                        field.add(held, line)
                except ContradictionError as error:
                    error.path.insert(0, name)
                    raise
        elif kind == "array":
            try:
                if self.element is None:
                    self.count.add()
                    self.element = JsonType(self.count)
                for held in value:
                    self.element.add(held, line)
            except ContradictionError as error:
                error.path.insert(0, "[]")
                raise
        elif kind == "integer" and not -LARGEST_EXACT <= value <= LARGEST_EXACT:
            if not -(1 << 63) <= value < 1 << 63:
                raise ContradictionError(
                    f"holds an integer of more than 64 bits in line {line.number}; write it as a string"
                )
            self.wide_line = self.wide_line or line
            self._refuse_rounding(line)

    def _become(self, kind: str, line: Line) -> None:
        if self.kind is None:
            self.kind, self.line = kind, line
        elif {self.kind, kind} == {"integer", "number"}:
            self.kind = "number"
            self._refuse_rounding(line)
        else:
            raise ContradictionError(
                f"holds {_a(self.kind)} in {self.line.seen_from(line)} and {_a(kind)} in line {line.number}"
            )

    def _refuse_rounding(self, line: Line) -> None:
        if self.kind == "number" and self.wide_line is not None:
            raise ContradictionError(
                f"holds fractions, and in {self.wide_line.seen_from(line)} an integer with more digits than float64 "
                "keeps; write them as strings"
            )

    def arrow_type(self) -> pa.DataType:
        """The type that holds every value; ``string`` where all were null.

        Raises:
            ContradictionError: an object that never had a field.
        """
        if self.kind == "object":
            return pa.struct(self.arrow_fields())
        if self.kind == "array":
            element = self.element.arrow_type() if self.element else pa.string()
            return pa.list_(pa.field("element", element))
        return {"boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64()}.get(self.kind or "", pa.string())

    def arrow_fields(self) -> list[pa.Field]:
        """The fields of an object, in the order in which they were first seen.

        Raises:
            ContradictionError: see :meth:`arrow_type`.
        """
        if not self.fields:
            raise ContradictionError("holds only empty objects, which Parquet has no type for; leave the column out")
        fields = []
        for name, field in self.fields.items():
            try:
                fields.append(pa.field(name, field.arrow_type()))
            except ContradictionError as error:
                error.path.insert(0, name)
                raise
        return fields


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aio' else 'a'} {kind}"
