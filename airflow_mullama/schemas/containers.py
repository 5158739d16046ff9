"""Arrays and objects of values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from airflow_mullama.schemas.values import Mismatch, Value, shown

_PLAIN_NAME = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True, kw_only=True)
class ArrayValue(Value):
    """A list of values of one kind.

    Args:
        items: what each item is.
        min_items: fewest items.
        max_items: most items.
    """

    items: Value
    min_items: int = 0
    max_items: int | None = None

    type_name: ClassVar[str] = "array"

    @property
    def arrow_type(self) -> pa.DataType:
        # Items are nullable whatever the schema says: `list<item: string>` is what every reader compares with.
        if self.storage == "fixed_size_list":
            return pa.list_(self.items.arrow_type, self.min_items)
        return (pa.large_list if self.storage == "large_list" else pa.list_)(self.items.arrow_type)

    def keywords(self) -> dict[str, Any]:
        keywords: dict[str, Any] = {"items": self.items.json_schema()}
        if self.min_items:
            keywords["minItems"] = self.min_items
        if self.max_items is not None:
            keywords["maxItems"] = self.max_items
        return keywords

    def children(self) -> Iterator[tuple[str, Value]]:
        yield "items", self.items

    def read_present(self, raw: Any, path: str) -> list[Any]:
        if not isinstance(raw, list):
            raise self.wrong_kind(raw, path)
        if len(raw) < self.min_items:
            raise Mismatch(path, f"has {len(raw)} items and needs at least {self.min_items}")
        if self.max_items is not None and len(raw) > self.max_items:
            raise Mismatch(path, f"has {len(raw)} items and may have {self.max_items}")
        return [self.items.read(item, f"{path}[{position}]") for position, item in enumerate(raw)]


@dataclass(frozen=True, kw_only=True)
class ObjectValue(Value):
    """An object with known properties.

    Args:
        properties: names and values, in the order of the columns.
        required: names that must be there; any other may be missing, which is a null in its column.
        closed: whether further properties are refused; otherwise they are ignored.
    """

    properties: tuple[tuple[str, Value], ...]
    required: frozenset[str]
    closed: bool = False

    type_name: ClassVar[str] = "object"

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        """One nullable Arrow field per property."""
        return tuple(pa.field(name, value.arrow_type) for name, value in self.properties)

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.struct(list(self.fields))

    def keywords(self) -> dict[str, Any]:
        keywords: dict[str, Any] = {"properties": {name: value.json_schema() for name, value in self.properties}}
        if self.required:
            keywords["required"] = [name for name, _ in self.properties if name in self.required]
        if self.closed:
            keywords["additionalProperties"] = False
        return keywords

    def children(self) -> Iterator[tuple[str, Value]]:
        for name, value in self.properties:
            yield f"properties/{pointer_segment(name)}", value

    def read_present(self, raw: Any, path: str) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise self.wrong_kind(raw, path)
        read: dict[str, Any] = {}
        for name, value in self.properties:
            if name in raw:
                read[name] = value.read(raw[name], path + step(name))
            elif name in self.required:
                raise Mismatch(path, f"the property {shown(name)} is missing")
            else:
                read[name] = None
        extra = next((name for name in raw if name not in read), None) if self.closed else None
        if extra is not None:
            raise Mismatch(path, f"the property {shown(extra)} is not in the schema")
        return read


def pointer_segment(name: str) -> str:
    """A property's name as a segment of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def step(name: str) -> str:
    """A property's name as a step of a path: ``.tags``, or ``["two words"]``."""
    return f".{name}" if _PLAIN_NAME.fullmatch(name) else f"[{shown(name)}]"
