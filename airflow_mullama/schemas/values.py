"""What one place of an answer may hold, and how it becomes a value that Arrow takes.

Each class is one kind of JSON value with its limits. A tree of them is the one description of an output schema: the
JSON Schema and the Arrow types are both read from it. :class:`Mismatch` is how a value says no; it never leaves this
package.
"""

from __future__ import annotations

import decimal
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa

from airflow_mullama.rows import ErrorType

INTEGER_TYPES = {
    str(arrow_type): arrow_type
    for arrow_type in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
}
FLOAT32_MAX = 3.4028234663852886e38
SHOWN_CHARACTERS = 60


class Mismatch(Exception):  # noqa: N818 - it is an answer's property and no error of the program
    """A value breaks its schema.

    Args:
        path: where in the answer, such as ``$.tags[2]``.
        reason: what is wrong there.
        error_type: ``schema_mismatch``, or ``invalid_json`` for what no JSON text should hold.
    """

    def __init__(self, path: str, reason: str, error_type: ErrorType = ErrorType.SCHEMA_MISMATCH) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.error_type = error_type


class NumberText(str):
    """A number as the answer wrote it, where Python's own would round it, overflow, or take seconds to parse."""

    __slots__ = ()


def shown(raw: Any) -> str:
    """``raw`` for a message: as JSON, on one line, short, and always text that can be stored."""
    if isinstance(raw, NumberText):
        text = str(raw)
    elif isinstance(raw, dict):
        return "an object"
    elif isinstance(raw, list):
        return f"an array of {len(raw)}"
    else:
        text = json.dumps(raw, ensure_ascii=False, default=repr)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


@dataclass(frozen=True, kw_only=True)
class Value:
    """Any kind of value.

    Args:
        nullable: whether ``null`` is accepted too.
        description: for models that are shown the schema.
        storage: the Arrow type's name where the JSON Schema alone would give another one, else empty.
    """

    nullable: bool = False
    description: str = ""
    storage: str = ""

    type_name: ClassVar[str]

    @property
    def arrow_type(self) -> pa.DataType:
        """The column's type."""
        raise NotImplementedError

    def keywords(self) -> dict[str, Any]:
        """JSON Schema keywords besides ``type`` and ``description``."""
        return {}

    def read_present(self, raw: Any, path: str) -> Any:
        """The Arrow value of ``raw``, which is not null."""
        raise NotImplementedError

    def children(self) -> Iterator[tuple[str, Value]]:
        """The values inside this one, each with its place in the JSON Schema as a JSON pointer."""
        return iter(())

    def json_schema(self) -> dict[str, Any]:
        """The canonical JSON Schema: the same for everything that means the same."""
        schema: dict[str, Any] = {"type": [self.type_name, "null"] if self.nullable else self.type_name}
        if self.description:
            schema["description"] = self.description
        return {**schema, **self.keywords()}

    def read(self, raw: Any, path: str) -> Any:
        """The Arrow value of a parsed JSON value.

        Raises:
            Mismatch: the value is not of this kind, or out of its limits.
        """
        if raw is None and self.nullable:
            return None
        return self.read_present(raw, path)

    def wrong_kind(self, raw: Any, path: str) -> Mismatch:
        """The refusal of a value of another JSON type."""
        article = "an" if self.type_name[0] in "aio" else "a"
        return Mismatch(path, f"{shown(raw)} is not {article} {self.type_name}")

    def storages(self, pointer: str = "") -> dict[str, str]:
        """Every ``storage`` of this tree that is not empty, by JSON pointer into :meth:`json_schema`."""
        found = {pointer: self.storage} if self.storage else {}
        for segment, child in self.children():
            found.update(child.storages(f"{pointer}/{segment}"))
        return found

    def as_nullable(self) -> Value:
        """The same, or null."""
        return replace(self, nullable=True)


@dataclass(frozen=True, kw_only=True)
class NullValue(Value):
    """``null`` and nothing else."""

    type_name: ClassVar[str] = "null"

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.null()

    def json_schema(self) -> dict[str, Any]:
        return {"type": "null", **({"description": self.description} if self.description else {})}

    def read_present(self, raw: Any, path: str) -> Any:
        if raw is not None:
            raise Mismatch(path, f"{shown(raw)} is not null")
        return None


@dataclass(frozen=True, kw_only=True)
class BooleanValue(Value):
    """``true`` or ``false``."""

    type_name: ClassVar[str] = "boolean"

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.bool_()

    def read_present(self, raw: Any, path: str) -> bool:
        if not isinstance(raw, bool):
            raise self.wrong_kind(raw, path)
        return raw


def integer_range(storage: str) -> tuple[int, int]:
    """The least and the greatest integer of an Arrow integer type, by its name; int64's for an empty one."""
    arrow_type = INTEGER_TYPES[storage or "int64"]
    if pa.types.is_signed_integer(arrow_type):
        return -(2 ** (arrow_type.bit_width - 1)), 2 ** (arrow_type.bit_width - 1) - 1
    return 0, 2**arrow_type.bit_width - 1


@dataclass(frozen=True, kw_only=True)
class IntegerValue(Value):
    """A whole number; 3.0 is one (JSON Schema 2020-12, 6.1.1).

    Args:
        minimum: least value, or ``None`` for the Arrow type's own.
        maximum: greatest value, likewise.
    """

    minimum: int | None = None
    maximum: int | None = None

    type_name: ClassVar[str] = "integer"

    @property
    def arrow_type(self) -> pa.DataType:
        return INTEGER_TYPES[self.storage or "int64"]

    def keywords(self) -> dict[str, Any]:
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        return {keyword: bound for keyword, bound in bounds.items() if bound is not None}

    def read_present(self, raw: Any, path: str) -> int:
        least, greatest = integer_range(self.storage)
        if isinstance(raw, NumberText):
            number = _whole(raw, least, greatest, path)
        elif isinstance(raw, int) and not isinstance(raw, bool):
            number = raw
        else:
            raise self.wrong_kind(raw, path)
        if not least <= number <= greatest:
            raise Mismatch(path, f"{shown(raw)} does not fit into {self.arrow_type}")
        if self.minimum is not None and number < self.minimum:
            raise Mismatch(path, f"{number} is less than the minimum {self.minimum}")
        if self.maximum is not None and number > self.maximum:
            raise Mismatch(path, f"{number} is more than the maximum {self.maximum}")
        return number


def _whole(raw: NumberText, least: int, greatest: int, path: str) -> int:
    """The integer that a text with a fraction, an exponent or many digits stands for."""
    try:
        exact = decimal.Decimal(str(raw))
    except decimal.InvalidOperation:  # an exponent of more digits than decimal can count
        exact = decimal.Decimal("Infinity")
    if not least <= exact <= greatest:  # before int(), which would write out every digit of 1e999999999
        raise Mismatch(path, f"{shown(raw)} is not an integer that fits")
    if exact.adjusted() < -1 or exact != int(exact):
        if not exact:
            return 0
        raise Mismatch(path, f"{shown(raw)} is not an integer")
    return int(exact)


@dataclass(frozen=True, kw_only=True)
class NumberValue(Value):
    """A number, kept as a double, or as a float32 where the Arrow schema says so.

    Args:
        minimum: least value; ``maximum``, ``exclusive_minimum`` and ``exclusive_maximum`` likewise.
    """

    minimum: float | None = None
    exclusive_minimum: float | None = None
    maximum: float | None = None
    exclusive_maximum: float | None = None

    type_name: ClassVar[str] = "number"

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.float32() if self.storage == "float32" else pa.float64()

    def keywords(self) -> dict[str, Any]:
        bounds = {
            "minimum": self.minimum,
            "exclusiveMinimum": self.exclusive_minimum,
            "maximum": self.maximum,
            "exclusiveMaximum": self.exclusive_maximum,
        }
        return {keyword: bound for keyword, bound in bounds.items() if bound is not None}

    def read_present(self, raw: Any, path: str) -> float:
        if isinstance(raw, bool) or not isinstance(raw, (int, NumberText)):
            raise self.wrong_kind(raw, path)
        number = float(raw)
        if math.isinf(number):
            raise Mismatch(path, f"{shown(raw)} does not fit into {self.arrow_type}")
        if self.minimum is not None and number < self.minimum:
            raise Mismatch(path, f"{shown(raw)} is less than the minimum {self.minimum}")
        if self.exclusive_minimum is not None and number <= self.exclusive_minimum:
            raise Mismatch(path, f"{shown(raw)} is not more than {self.exclusive_minimum}")
        if self.maximum is not None and number > self.maximum:
            raise Mismatch(path, f"{shown(raw)} is more than the maximum {self.maximum}")
        if self.exclusive_maximum is not None and number >= self.exclusive_maximum:
            raise Mismatch(path, f"{shown(raw)} is not less than {self.exclusive_maximum}")
        return number


@dataclass(frozen=True, kw_only=True)
class StringValue(Value):
    """Text.

    Args:
        min_length: fewest characters (code points, as JSON Schema counts them).
        max_length: most characters.
    """

    min_length: int = 0
    max_length: int | None = None

    type_name: ClassVar[str] = "string"

    @property
    def arrow_type(self) -> pa.DataType:
        if self.storage == "dictionary":
            return pa.dictionary(pa.int32(), pa.string())
        return pa.large_string() if self.storage == "large_string" else pa.string()

    def keywords(self) -> dict[str, Any]:
        keywords: dict[str, Any] = {"minLength": self.min_length} if self.min_length else {}
        if self.max_length is not None:
            keywords["maxLength"] = self.max_length
        return keywords

    def read_present(self, raw: Any, path: str) -> str:
        if not isinstance(raw, str) or isinstance(raw, NumberText):
            raise self.wrong_kind(raw, path)
        if len(raw) < self.min_length:
            raise Mismatch(path, f"{shown(raw)} has {len(raw)} characters and needs at least {self.min_length}")
        if self.max_length is not None and len(raw) > self.max_length:
            raise Mismatch(path, f"{shown(raw)} has {len(raw)} characters and may have {self.max_length}")
        if any("\ud800" <= character <= "\udfff" for character in raw):
            raise Mismatch(path, f"{shown(raw)} holds half a surrogate pair, which is no text", ErrorType.INVALID_JSON)
        return raw


@dataclass(frozen=True, kw_only=True)
class ChoiceValue(Value):
    """One of a list of values, all of one type; texts become an Arrow dictionary.

    Args:
        kind: what each choice is.
        choices: the values, in the schema's order.
    """

    kind: Value
    choices: tuple[Any, ...]

    @property
    def type_name(self) -> str:  # type: ignore[override]
        return self.kind.type_name

    @property
    def arrow_type(self) -> pa.DataType:
        if isinstance(self.kind, StringValue):
            return pa.dictionary(pa.int32(), pa.string())
        return self.kind.arrow_type

    def keywords(self) -> dict[str, Any]:
        # Null stands among the values, or JSON Schema would refuse it whatever `type` says.
        return {"enum": [*self.choices, None] if self.nullable else list(self.choices)}

    def read_present(self, raw: Any, path: str) -> Any:
        value = self.kind.read_present(raw, path)
        if value not in self.choices:
            listed = ", ".join(shown(choice) for choice in self.choices[:8])
            more = f" and {len(self.choices) - 8} more" if len(self.choices) > 8 else ""
            raise Mismatch(path, f"{shown(raw)} is not one of {listed}{more}")
        return value
