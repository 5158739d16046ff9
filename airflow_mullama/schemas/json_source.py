"""Reading a JSON Schema, strictly: what is not supported is named, with its place, before the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.schemas.bounds import count, integer_bounds, number_bounds
from airflow_mullama.schemas.containers import ArrayValue, ObjectValue, pointer_segment
from airflow_mullama.schemas.instants import DateValue, TimestampValue, is_timestamp_storage
from airflow_mullama.schemas.refusal import at, refuse
from airflow_mullama.schemas.values import (
    INTEGER_TYPES,
    BooleanValue,
    ChoiceValue,
    IntegerValue,
    Mismatch,
    NullValue,
    NumberText,
    NumberValue,
    StringValue,
    Value,
    shown,
)

# A grammar is compiled for each request and grows with these; a count of a hundred million hangs llama.cpp.
MAX_ITEMS = 1_000
MAX_LENGTH = 100_000
MAX_CHOICES = 5_000
MAX_PROPERTIES = 1_000
MAX_DEPTH = 32

TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$schema", "$id", "$comment"}
)
DEFINITIONS = frozenset({"$defs", "definitions"})
KEYWORDS: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "format", "enum", "const"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "const"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "const"}),
    "boolean": frozenset({"enum", "const"}),
    "null": frozenset({"enum", "const"}),
}
REMEDIES: Mapping[str, str] = {
    "pattern": "engines read different kinds of patterns; use enum or format, or check the column afterwards",
    "allOf": "write the properties into one object",
    "not": "list what is allowed, with enum",
    "patternProperties": "name each property under properties",
    "prefixItems": "use an object with one property per position",
    "uniqueItems": "remove it and drop duplicates in the column afterwards",
    "multipleOf": "remove it and check the column afterwards",
    "contains": "remove it and check the column afterwards",
}


def read_json_schema(schema: Any, arrow_types: Mapping[str, str] | None = None) -> ObjectValue:
    """Read the JSON Schema of a whole answer.

    Args:
        schema: the parsed schema, an object with properties.
        arrow_types: Arrow types that differ from the default, by JSON pointer into the schema.

    Raises:
        ConfigurationError: names the place, the keyword or type, and what to do.
    """
    reader = _Reader(schema, dict(arrow_types or {}))
    value = reader.read(schema, "", "", ())
    if not isinstance(value, ObjectValue) or value.nullable:
        raise refuse("", f"is of type {shown(_type_shown(value))}", 'an answer is an object: say {"type": "object", …}')
    if reader.arrow_types:
        pointer, name = reader.arrow_types.popitem()
        raise refuse("", f"has an Arrow type {name!r} for {pointer!r}, which is not in it", "make the schema anew")
    return value


def _type_shown(value: Value) -> Any:
    return [value.type_name, "null"] if value.nullable else value.type_name


class _Reader:
    """One pass over a schema; knows its definitions and how many properties it has seen."""

    def __init__(self, document: Any, arrow_types: dict[str, str]) -> None:
        self.document = document
        self.arrow_types = arrow_types
        self.properties_seen = 0

    def read(self, schema: Any, path: str, pointer: str, references: tuple[str, ...]) -> Value:
        """The value described at ``path``; ``references`` are those being followed."""
        if not isinstance(schema, Mapping):
            raise refuse(path, f"is {shown(schema)}", 'write an object such as {"type": "string"}')
        if pointer.count("/") > 2 * MAX_DEPTH:
            raise refuse("", f"is nested more than {MAX_DEPTH} levels deep", "make it flatter")
        if "$ref" in schema:
            return self._reference(schema, path, pointer, references)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._union(schema, keyword, path, pointer, references)
        value = self._plain(schema, path, pointer, references)
        return self._described(value, schema, path)

    def _described(self, value: Value, schema: Mapping[str, Any], path: str) -> Value:
        description = schema.get("description", "")
        if not isinstance(description, str):
            raise refuse(path, f"has the description {shown(description)}", "write a text")
        if any("\ud800" <= character <= "\udfff" for character in description):
            raise refuse(path, "has a description with half a surrogate pair", "write a text")
        return replace(value, description=description) if description else value

    def _reference(self, schema: Mapping[str, Any], path: str, pointer: str, references: tuple[str, ...]) -> Value:
        reference = schema["$ref"]
        _refuse_others(schema, {"$ref"} | DEFINITIONS, path, "stands beside '$ref'")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise refuse(
                path, f"has the $ref {shown(reference)}", "refer to a definition in it, such as #/$defs/Address"
            )
        if reference in references:
            raise refuse(path, f"refers to {shown(reference)} inside itself", "a column's type is finite: unroll it")
        target = self.document
        for segment in reference[2:].split("/"):
            name = segment.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or name not in target:
                raise refuse(path, f"refers to {shown(reference)}, which is not there", "correct the $ref")
            target = target[name]
        return self._described(self.read(target, path, pointer, (*references, reference)), schema, path)

    def _union(
        self, schema: Mapping[str, Any], keyword: str, path: str, pointer: str, references: tuple[str, ...]
    ) -> Value:
        _refuse_others(schema, {keyword}, path, f"stands beside {keyword!r}")
        alternatives = schema[keyword]
        if not isinstance(alternatives, list):
            raise refuse(at(path, keyword), f"is {shown(alternatives)}", "write a list of schemas")
        present = [part for part in alternatives if not _is_null(part)]
        if len(present) != 1 or len(alternatives) - len(present) > 1:
            hint = "a column has one type: give one alternative, or one and null"
            raise refuse(at(path, keyword), f"has {len(alternatives)} alternatives", hint)
        value = self.read(present[0], path, pointer, references)
        if len(alternatives) == 2:
            if keyword == "oneOf" and (value.nullable or isinstance(value, NullValue)):
                raise refuse(at(path, keyword), "allows null twice, which is never exactly one", "use anyOf")
            value = value if isinstance(value, NullValue) else value.as_nullable()
        return self._described(value, schema, path)

    def _plain(self, schema: Mapping[str, Any], path: str, pointer: str, references: tuple[str, ...]) -> Value:
        type_name, nullable = _type(schema, path)
        allowed = KEYWORDS[type_name] | ANNOTATIONS | {"type"} | (DEFINITIONS if not path else frozenset())
        for keyword in schema:
            if keyword not in allowed:
                known = any(keyword in keywords for keywords in KEYWORDS.values())
                what = f"does not apply to the type '{type_name}'" if known else "is not supported"
                hint = REMEDIES.get(keyword, "remove it") if not known else "remove it or change the type"
                raise refuse(path, f"has the keyword {keyword!r}, which {what}", hint)
        storage = self.arrow_types.pop(pointer, "")
        if "enum" in schema or "const" in schema:
            value = _choice(schema, type_name, nullable, path)
            nullable = value.nullable
        elif type_name == "object":
            value = self._object(schema, path, pointer, references)
        elif type_name == "array":
            value = self._array(schema, path, pointer, references)
        elif type_name == "string":
            value = _string(schema, path)
        elif type_name == "integer":
            if storage and storage not in INTEGER_TYPES:
                raise _unknown_storage(storage, path)
            value = IntegerValue(storage=storage, **integer_bounds(schema, storage, path))
        elif type_name == "number":
            value = NumberValue(**number_bounds(schema, path))
        else:
            value = BooleanValue() if type_name == "boolean" else NullValue()
        if storage:
            value = _stored(value, storage, path)
        return value.as_nullable() if nullable and not isinstance(value, NullValue) else value

    def _object(self, schema: Mapping[str, Any], path: str, pointer: str, references: tuple[str, ...]) -> ObjectValue:
        described = schema.get("properties")
        if not isinstance(described, Mapping) or not described:
            raise refuse(path, "is an object without properties", "name each property under properties")
        additional = schema.get("additionalProperties", True)
        if not isinstance(additional, bool):
            hint = "use true or false, and name each property under properties"
            raise refuse(at(path, "additionalProperties"), "is a schema, which is not supported", hint)
        required = schema.get("required", [])
        if not isinstance(required, list):
            raise refuse(at(path, "required"), f"is {shown(required)}", "write a list of property names")
        for name in required:
            if name not in described:
                raise refuse(at(path, "required"), f"names {shown(name)}, which is no property", "correct one of them")
        self.properties_seen += len(described)
        if self.properties_seen > MAX_PROPERTIES:
            raise refuse("", f"has more than {MAX_PROPERTIES} properties", "ask for fewer in one answer")
        properties = []
        for name, part in described.items():
            if not isinstance(name, str) or not name or any("\ud800" <= letter <= "\udfff" for letter in name):
                raise refuse(at(path, "properties"), f"has the name {shown(name)}", "a column's name is a text")
            inside = at(path, f"properties.{name}")
            place = f"{pointer}/properties/{pointer_segment(name)}"
            properties.append((name, self.read(part, inside, place, references)))
        return ObjectValue(properties=tuple(properties), required=frozenset(required), closed=not additional)

    def _array(self, schema: Mapping[str, Any], path: str, pointer: str, references: tuple[str, ...]) -> ArrayValue:
        if "items" not in schema:
            raise refuse(path, "is an array without items", 'say what each item is: "items": {"type": "string"}')
        least = count(schema, "minItems", MAX_ITEMS, path)
        most = count(schema, "maxItems", MAX_ITEMS, path)
        if most is not None and most < (least or 0):
            raise refuse(path, f"has maxItems {most} below minItems {least}", "correct one of them")
        items = self.read(schema["items"], at(path, "items"), f"{pointer}/items", references)
        return ArrayValue(items=items, min_items=least or 0, max_items=most)


def _refuse_others(schema: Mapping[str, Any], allowed: set[str] | frozenset[str], path: str, what: str) -> None:
    for keyword in schema:
        if keyword not in allowed and keyword not in ANNOTATIONS:
            raise refuse(path, f"has the keyword {keyword!r}, which {what}", "move it into the schema that it is about")


def _is_null(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "null"


def _type(schema: Mapping[str, Any], path: str) -> tuple[str, bool]:
    """The one type of a schema, and whether null is a second."""
    if "type" not in schema:
        if "enum" in schema or "const" in schema:
            return _type_of_choices(schema, path)
        unsupported = next((keyword for keyword in schema if keyword in REMEDIES), None)
        if unsupported is not None:
            raise refuse(path, f"has the keyword {unsupported!r}, which is not supported", REMEDIES[unsupported])
        raise refuse(path, "has no type", f"a column has one type: add one of {', '.join(TYPES)}")
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    for name in types:
        if name not in TYPES:
            raise refuse(path, f"has the type {shown(name)}", f"use one of {', '.join(TYPES)}")
    present = [name for name in types if name != "null"]
    if not types or len(present) > 1 or len(set(types)) < len(types):
        raise refuse(path, f"has the type {shown_list(types)}", "a column has one type: give one, or one and null")
    return (present[0], "null" in types) if present else ("null", False)


def shown_list(items: list[Any]) -> str:
    """The items of a short list, for a message."""
    return f"[{', '.join(shown(item) for item in items)}]"


def _choices(schema: Mapping[str, Any], path: str) -> list[Any]:
    if "enum" in schema and "const" in schema:
        raise refuse(path, "has both enum and const", "keep one of them")
    choices = schema["enum"] if "enum" in schema else [schema["const"]]
    if not isinstance(choices, list) or not choices:
        raise refuse(at(path, "enum"), f"is {shown(choices)}", "list at least one value")
    if len(choices) > MAX_CHOICES:
        raise refuse(at(path, "enum"), f"has {len(choices)} values", f"list at most {MAX_CHOICES}")
    return choices


def _type_of_choices(schema: Mapping[str, Any], path: str) -> tuple[str, bool]:
    choices = _choices(schema, path)
    present = [choice for choice in choices if choice is not None]
    for name, kinds in (("string", str), ("boolean", bool), ("integer", int), ("number", (int, float))):
        if present and all(
            isinstance(choice, kinds) and (name == "boolean" or not isinstance(choice, bool)) for choice in present
        ):
            return name, len(present) < len(choices)
    if not present:
        return "null", False
    raise refuse(at(path, "enum"), "mixes types", "a column has one type: list texts, or integers, or numbers")


def _choice(schema: Mapping[str, Any], type_name: str, nullable: bool, path: str) -> Value:
    for keyword in schema:
        if keyword not in ANNOTATIONS | {"type", "enum", "const"}:
            raise refuse(path, f"has the keyword {keyword!r} beside an enum", "remove it: the enum says it all")
    kinds: Mapping[str, Value] = {
        "string": StringValue(),
        "boolean": BooleanValue(),
        "integer": IntegerValue(),
        "number": NumberValue(),
        "null": NullValue(),
    }
    kind, choices = kinds[type_name], _choices(schema, path)
    present = [choice for choice in choices if choice is not None]
    if len(present) < len(choices) and not nullable and type_name != "null":
        raise refuse(
            at(path, "enum"), f"lists null beside the type '{type_name}'", 'say "type": [… , "null"], or drop it'
        )
    if not present:
        return NullValue()
    read = []
    for choice in present:
        try:
            read.append(kind.read_present(NumberText(repr(choice)) if isinstance(choice, float) else choice, path))
        except Mismatch as mismatch:
            raise refuse(at(path, "enum"), mismatch.reason, f"each value is of the type '{type_name}'") from None
    if len(set(read)) < len(read) or len(choices) - len(present) > 1:
        raise refuse(at(path, "enum"), "lists a value twice", "drop one of them")
    return ChoiceValue(kind=kind, choices=tuple(read), nullable=len(present) < len(choices))


def _string(schema: Mapping[str, Any], path: str) -> Value:
    least = count(schema, "minLength", MAX_LENGTH, path)
    most = count(schema, "maxLength", MAX_LENGTH, path)
    if most is not None and most < (least or 0):
        raise refuse(path, f"has maxLength {most} below minLength {least}", "correct one of them")
    if "format" not in schema:
        return StringValue(min_length=least or 0, max_length=most)
    if least is not None or most is not None:
        raise refuse(path, "has a length beside a format", "remove minLength and maxLength: the format decides")
    if schema["format"] == "date":
        return DateValue()
    if schema["format"] == "date-time":
        return TimestampValue()
    hint = "use date or date-time, or remove it and check the column afterwards"
    raise refuse(path, f"has the format {shown(schema['format'])}, which is not supported", hint)


def _stored(value: Value, storage: str, path: str) -> Value:
    """``value`` in a column of another Arrow type."""
    fits = (
        isinstance(value, IntegerValue)
        or (isinstance(value, NumberValue) and storage == "float32")
        or (isinstance(value, StringValue) and storage in ("dictionary", "large_string"))
        or (isinstance(value, TimestampValue) and is_timestamp_storage(storage))
        or (isinstance(value, ArrayValue) and storage == "large_list")
        or (isinstance(value, ArrayValue) and storage == "fixed_size_list" and 0 < value.min_items == value.max_items)
    )
    if not fits:
        raise _unknown_storage(storage, path)
    return replace(value, storage=storage)


def _unknown_storage(storage: str, path: str) -> ConfigurationError:
    return refuse(path, f"has the Arrow type {storage!r}, which does not fit its JSON type", "make the schema anew")
