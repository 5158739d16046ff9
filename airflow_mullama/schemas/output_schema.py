"""An output schema: the JSON Schema of an answer and the Arrow fields it becomes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.schemas.containers import ObjectValue
from airflow_mullama.schemas.json_source import read_json_schema


@dataclass(frozen=True)
class OutputSchema:
    """What an answer must look like and which columns it gives; made by :func:`load_output_schema`.

    Args:
        root: the description both faces are read from.
    """

    root: ObjectValue

    @cached_property
    def json_schema(self) -> dict[str, Any]:
        """The canonical JSON Schema: references resolved, no annotations but ``description``, bounds of integers
        inclusive, ``null`` in the list of types. An answer is valid if it satisfies this (and integers fit their
        column). ``required`` and ``additionalProperties`` are as the user wrote them.
        """
        return self.root.json_schema()

    @cached_property
    def closed_json_schema(self) -> dict[str, Any]:
        """:attr:`json_schema` with ``additionalProperties: false`` in every object: what decoding is constrained to.

        Absent, it means true, and then a grammar lets a model go on with invented properties for as long as it likes.
        """
        return closed(self.json_schema)

    @cached_property
    def fields(self) -> tuple[pa.Field, ...]:
        """One nullable field per property, in the schema's order. What is inside them is nullable too, at every level:
        whether null is allowed is said by :attr:`json_schema` and checked on each answer.
        """
        return self.root.fields

    @cached_property
    def arrow_types(self) -> dict[str, str]:
        """Arrow types that the JSON Schema alone would not give (``int32``, ``large_list``), by JSON pointer into it.

        Empty unless the schema came from a :class:`pyarrow.Schema`.
        """
        return self.root.storages()

    def to_json(self) -> str:
        """The schema as one line of JSON: equal schemas give equal text, so it can be fingerprinted."""
        document: dict[str, Any] = {"json_schema": self.json_schema}
        if self.arrow_types:
            document["arrow_types"] = self.arrow_types
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> OutputSchema:
        """The schema that :meth:`to_json` wrote.

        Raises:
            ConfigurationError: the text is not what it wrote.
        """
        try:
            document = json.loads(text)
            json_schema, arrow_types = document["json_schema"], document.get("arrow_types", {})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ConfigurationError(f"Not a recorded output schema: {text[:80]!r}.") from None
        return cls(read_json_schema(json_schema, arrow_types))


def closed(json_schema: dict[str, Any]) -> dict[str, Any]:
    """A canonical JSON Schema with every object closed."""
    schema = dict(json_schema)
    if "properties" in schema:
        schema["properties"] = {name: closed(value) for name, value in schema["properties"].items()}
        schema["additionalProperties"] = False
    if "items" in schema:
        schema["items"] = closed(schema["items"])
    return schema
