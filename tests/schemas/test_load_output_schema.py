from __future__ import annotations

import datetime
import enum
import json
import pickle
import subprocess
import sys
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Optional

import pyarrow as pa
import pydantic
import pytest

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.schemas import OutputSchema, load_output_schema
from airflow_mullama.schemas.json_source import KEYWORDS


def with_property(value: Any, **rest: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"tags": value}, **rest}


@pytest.mark.parametrize(
    ("value", "arrow_type"),
    [
        ({"type": "string"}, pa.string()),
        ({"enum": ["a", "b"]}, pa.dictionary(pa.int32(), pa.string())),
        ({"const": "a"}, pa.dictionary(pa.int32(), pa.string())),
        ({"type": "string", "format": "date-time"}, pa.timestamp("us", "UTC")),
        ({"type": "string", "format": "date"}, pa.date32()),
        ({"type": "integer"}, pa.int64()),
        ({"enum": [1, 2]}, pa.int64()),
        ({"enum": [1, 2.5]}, pa.float64()),
        ({"const": True}, pa.bool_()),
        ({"type": "number"}, pa.float64()),
        ({"type": "boolean"}, pa.bool_()),
        ({"type": "null"}, pa.null()),
        ({"const": None}, pa.null()),
        ({"type": ["integer", "null"]}, pa.int64()),
        ({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}, pa.list_(pa.list_(pa.string()))),
        (with_property({"type": "number"}), pa.struct([("tags", pa.float64())])),
    ],
)
def test_a_json_type_has_one_arrow_type(value: dict[str, Any], arrow_type: pa.DataType) -> None:
    assert load_output_schema(with_property(value)).fields == (pa.field("tags", arrow_type),)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"type": ["integer", "null"]}),
        ({"oneOf": [{"type": "null"}, {"enum": ["a"]}]}, {"type": ["string", "null"], "enum": ["a", None]}),
        ({"type": ["string", "null"], "enum": ["a"]}, {"type": "string", "enum": ["a"]}),
        ({"enum": ["a", None]}, {"type": ["string", "null"], "enum": ["a", None]}),
        ({"type": "integer", "exclusiveMinimum": 0.5, "maximum": 3.5}, {"type": "integer", "minimum": 1, "maximum": 3}),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**64}, {"type": "integer"}),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": 0}, {"type": "number", "exclusiveMinimum": 0}),
        ({"type": "string", "minLength": 0, "title": "T", "default": "x"}, {"type": "string"}),
        ({"type": "string", "description": "d"}, {"type": "string", "description": "d"}),
        ({"$ref": "#/$defs/a~1b", "description": "d"}, {"type": "boolean", "description": "d"}),
    ],
)
def test_one_meaning_has_one_canonical_form(written: dict[str, Any], canonical: dict[str, Any]) -> None:
    schema = load_output_schema(with_property(written, **{"$defs": {"a/b": {"type": "boolean"}}}))
    assert schema.json_schema == {"type": "object", "properties": {"tags": canonical}}


UNSUPPORTED = [
    *("$anchor", "$dynamicAnchor", "$dynamicRef", "$vocabulary", "allOf", "if", "then", "else", "not"),
    *("prefixItems", "contains", "minContains", "maxContains", "patternProperties", "propertyNames"),
    *("minProperties", "maxProperties", "dependentRequired", "dependentSchemas", "unevaluatedItems"),
    *("unevaluatedProperties", "pattern", "uniqueItems", "multipleOf", "contentEncoding"),
    *("contentMediaType", "contentSchema", "dependencies", "additionalItems", "nullable", "discriminator"),
    *("x-order"),
]


@pytest.mark.parametrize("keyword", UNSUPPORTED)
@pytest.mark.parametrize("type_name", sorted(KEYWORDS))
def test_every_unsupported_keyword_is_named_with_its_place(keyword: str, type_name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_output_schema(with_property({"type": "array", "items": {"type": type_name, keyword: {}}}))
    assert f"properties.tags.items has the keyword {keyword!r}, which is not supported; " in str(caught.value)


@pytest.mark.parametrize("keyword", sorted(set().union(*KEYWORDS.values()) - {"enum", "const"}))
@pytest.mark.parametrize("type_name", sorted(KEYWORDS))
def test_a_keyword_of_another_type_is_named(keyword: str, type_name: str) -> None:
    if keyword in KEYWORDS[type_name]:
        return
    with pytest.raises(ConfigurationError, match=f"'{keyword}', which does not apply to the type '{type_name}'"):
        load_output_schema(with_property({"type": type_name, keyword: 1}))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "properties.tags is true"),
        ({}, "properties.tags has no type"),
        ({"pattern": "^a$"}, "'pattern', which is not supported"),
        ({"type": "nope"}, 'properties.tags has the type "nope"; use one of object, array'),
        ({"type": ["string", "integer"]}, '["string", "integer"]; a column has one type'),
        ({"type": []}, "has the type []"),
        ({"type": object()}, "has the type"),
        (
            {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            "properties.tags.anyOf has 2 alternatives; a column has one",
        ),
        ({"anyOf": [{"type": "string"}], "type": "string"}, "'type', which stands beside 'anyOf'"),
        ({"$ref": "#/$defs/Missing"}, 'refers to "#/$defs/Missing", which is not there'),
        ({"$ref": "https://example.com/x"}, 'has the $ref "https://example.com/x"'),
        ({"$ref": "#/properties/tags"}, "inside itself"),
        ({"$ref": "#/$defs/Missing", "maxLength": 3}, "'maxLength', which stands beside '$ref'"),
        ({"type": "string", "format": "uuid"}, 'has the format "uuid", which is not supported; use date or date-time'),
        ({"type": "string", "format": "date", "maxLength": 9}, "has a length beside a format"),
        ({"type": "string", "maxLength": 10**8}, "has maxLength 100000000; the most that engines take is 100000"),
        ({"type": "string", "minLength": -1}, "has minLength -1; write a whole number"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "maxLength 2 below minLength 3"),
        ({"type": "array"}, "is an array without items"),
        ({"type": "array", "items": {"type": "null"}, "minItems": 10**8}, "has minItems 100000000; the most"),
        ({"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 1}, "maxItems 1 below minItems 2"),
        ({"type": "array", "items": [{"type": "null"}]}, "properties.tags.items is an array of 1"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "properties.tags allows no integer"),
        ({"type": "integer", "minimum": 0.2, "maximum": 0.8}, "allows no integer"),
        ({"type": "integer", "minimum": 2**64}, "allows no integer that fits its column"),
        ({"type": "integer", "exclusiveMinimum": True}, "has exclusiveMinimum true; write a finite number"),
        ({"type": "number", "minimum": float("nan")}, "has minimum NaN"),
        ({"type": "number", "minimum": 10**400}, "write a finite number"),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1}, "allows no number"),
        ({"enum": []}, "properties.tags.enum is an array of 0; list at least one value"),
        ({"enum": ["a", 1]}, "properties.tags.enum mixes types"),
        ({"enum": [True, 1]}, "mixes types"),
        ({"enum": [["a"]]}, "mixes types"),
        ({"type": "string", "enum": ["a", None]}, "lists null beside the type 'string'"),
        ({"type": "string", "enum": ["a", 1]}, "1 is not a string"),
        ({"type": "integer", "enum": [2**63]}, "does not fit into int64"),
        ({"enum": ["a", "a"]}, "lists a value twice"),
        ({"enum": ["\ud800"]}, "half a surrogate pair"),
        ({"enum": ["a"], "const": "a"}, "has both enum and const"),
        ({"enum": ["a"], "type": "string", "maxLength": 3}, "'maxLength' beside an enum"),
        ({"enum": [str(number) for number in range(5001)]}, "has 5001 values"),
        ({"type": "object"}, "is an object without properties"),
        ({"type": "object", "properties": {}}, "is an object without properties"),
        (with_property({"type": "null"}, additionalProperties={}), "properties.tags.additionalProperties is a schema"),
        (with_property({"type": "null"}, required=["x"]), 'properties.tags.required names "x", which is no property'),
        (with_property({"type": "null"}, required="tags"), "properties.tags.required is"),
        ({"type": "object", "properties": {"": {"type": "null"}}}, 'has the name ""'),
        ({"type": "string", "description": 3}, "has the description 3"),
    ],
)
def test_what_cannot_be_promised_is_refused_with_its_place(value: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_output_schema(with_property(value))
    assert words in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize(
    "source", [{"type": "string"}, {"type": ["object", "null"], "properties": {"a": {"type": "null"}}}]
)
def test_an_answer_is_an_object(source: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="an answer is an object"):
        load_output_schema(source)


def test_references_that_multiply_or_never_end_are_refused() -> None:
    pair = {"type": "object", "properties": {"a": {"$ref": "#/$defs/0"}, "b": {"$ref": "#/$defs/0"}}}
    levels = {"0": {"type": "boolean"}}
    for level in range(1, 30):
        levels[str(level)] = json.loads(json.dumps(pair).replace("/0", f"/{level - 1}"))
    with pytest.raises(ConfigurationError, match="more than 1000 properties"):
        load_output_schema({"$ref": "#/$defs/29", "$defs": levels})
    deep: dict[str, Any] = {"type": "null"}
    for _ in range(100):
        deep = {"type": "array", "items": deep}
    with pytest.raises(ConfigurationError, match="more than 32 levels"):
        load_output_schema(with_property(deep))
    endless: dict[str, Any] = {"anyOf": []}
    endless["anyOf"].append(endless)
    with pytest.raises(ConfigurationError, match="nested without end"):
        load_output_schema(with_property(endless))


def test_a_schema_can_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text("\ufeff" + json.dumps(with_property({"type": "string"})), "utf-8")
    assert (
        load_output_schema(file)
        == load_output_schema(str(file))
        == load_output_schema(with_property({"type": "string"}))
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b'{"type": "object", "type": "array"}', "a key stands twice"),
        (b'{"type": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "the schema is an array of 0"),
    ],
)
def test_a_file_that_is_no_schema_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "schema.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words):
        load_output_schema(file)


@pytest.mark.parametrize("source", [None, 3, int, ["a"], b"x", '{"type": "object"}', " \n{}"])
def test_what_is_no_schema_says_what_to_pass(source: Any) -> None:
    with pytest.raises(ConfigurationError, match="pass "):
        load_output_schema(source)


class Urgency(enum.Enum):
    LOW = "low"
    HIGH = "high"


class Place(pydantic.BaseModel):
    """Where it happened."""

    city: str = pydantic.Field(min_length=1)
    since: Optional[datetime.date] = None  # noqa: UP045 - what people write


class Ticket(pydantic.BaseModel):
    urgency: Urgency
    kind: Literal["bug", "question"]
    mood: Literal["good", None]
    score: float = pydantic.Field(gt=0, le=1)
    stars: int | None = pydantic.Field(default=None, ge=1, le=5)
    place: Place | None
    places: list[Place] = pydantic.Field(max_length=3)
    at: datetime.datetime = pydantic.Field(alias="reported_at")
    open: bool


def test_a_pydantic_model_becomes_columns() -> None:
    schema = load_output_schema(Ticket)
    place, labels = pa.struct([("city", pa.string()), ("since", pa.date32())]), pa.dictionary(pa.int32(), pa.string())
    assert {field.name: field.type for field in schema.fields} == {
        "urgency": labels,
        "kind": labels,
        "mood": labels,
        "score": pa.float64(),
        "stars": pa.int64(),
        "place": place,
        "places": pa.list_(place),
        "reported_at": pa.timestamp("us", "UTC"),
        "open": pa.bool_(),
    }
    assert schema.json_schema["properties"]["stars"] == {"type": ["integer", "null"], "minimum": 1, "maximum": 5}
    assert "stars" not in schema.json_schema["required"]
    assert schema.json_schema["properties"]["place"]["description"] == "Where it happened."
    assert OutputSchema.from_json(schema.to_json()) == schema


class Node(pydantic.BaseModel):
    children: list[Node]


class Forbidding(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    a: bool


def test_a_pydantic_model_that_forbids_extras_is_closed() -> None:
    assert load_output_schema(Forbidding).json_schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (uuid.UUID, 'properties.a has the format "uuid"'),
        (Decimal, "properties.a.anyOf has"),
        (int | str, "properties.a.anyOf has 2 alternatives"),
        (dict[str, int], "properties.a is an object without properties"),
        (set[str], "properties.a has the keyword 'uniqueItems'"),
        (tuple[int, str], "properties.a has the keyword"),
        (Any, "properties.a has no type"),
        (Node, 'properties.a.properties.children.items refers to "#/$defs/Node" inside itself'),
        (datetime.time, 'properties.a has the format "time"'),
        (type, "Model has no JSON Schema"),
    ],
)
def test_a_pydantic_field_without_a_column_is_named(annotation: Any, words: str) -> None:
    model = pydantic.create_model("Model", a=(annotation, ...))
    with pytest.raises(ConfigurationError) as caught:
        load_output_schema(model)
    assert words in str(caught.value)


def test_an_instance_of_a_model_is_not_its_class() -> None:
    with pytest.raises(ConfigurationError, match="pass the class Forbidding itself"):
        load_output_schema(Forbidding(a=True))


def test_an_arrow_schema_becomes_a_json_schema() -> None:
    schema = load_output_schema(
        pa.schema(
            [
                pa.field("stars", pa.int8(), nullable=False),
                pa.field("a/b", pa.list_(pa.field("item", pa.large_string(), nullable=False), 2)),
            ]
        )
    )
    assert schema.json_schema == {
        "type": "object",
        "properties": {
            "stars": {"type": "integer", "minimum": -128, "maximum": 127},
            "a/b": {"type": ["array", "null"], "items": {"type": "string"}, "minItems": 2, "maxItems": 2},
        },
        "required": ["stars", "a/b"],
    }
    assert schema.arrow_types == {
        "/properties/stars": "int8",
        "/properties/a~1b": "fixed_size_list",
        "/properties/a~1b/items": "large_string",
    }
    assert schema.fields == (pa.field("stars", pa.int8()), pa.field("a/b", pa.list_(pa.large_string(), 2)))


@pytest.mark.parametrize(
    ("arrow_type", "words"),
    [
        (pa.decimal128(5, 2), "JSON has no exact decimals"),
        (pa.binary(), "use string"),
        (pa.time64("us"), "use string"),
        (pa.duration("s"), "use string"),
        (pa.timestamp("s"), "use the unit ms, us or ns"),
        (pa.date64(), "use date32"),
        (pa.float16(), "use float32"),
        (pa.map_(pa.string(), pa.int64()), "use a struct"),
        (pa.dictionary(pa.int8(), pa.string()), r"use pa\.dictionary\(pa\.int32\(\), pa\.string\(\)\)"),
        (pa.dictionary(pa.int32(), pa.string(), ordered=True), r"use pa\.dictionary"),
        (pa.list_(pa.int8(), 0), "use 1 to 1000"),
        (pa.struct([]), "without properties"),
        (pa.struct([("x", pa.int8()), ("x", pa.int8())]), "two fields of the name 'x'"),
        (pa.list_(pa.binary()), r"a\.items is of the Arrow type binary"),
    ],
)
def test_an_arrow_type_without_json_is_named_with_what_to_use(arrow_type: pa.DataType, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load_output_schema(pa.schema([("a", arrow_type)]))


def test_a_loaded_schema_is_a_value() -> None:
    schema = load_output_schema(with_property({"enum": ["é"]}))
    assert load_output_schema(schema) is schema
    assert pickle.loads(pickle.dumps(schema)) == schema
    assert hash(schema) == hash(load_output_schema(with_property({"const": "é"})))
    assert schema.to_json() == (
        '{"json_schema":{"type":"object","properties":{"tags":{"type":"string","enum":["é"]}}}}'
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"json_schema": 3}',
        '{"json_schema": {"type": "object", "properties": {"a": {"type": "string"}}}, "arrow_types": {"/x": "int8"}}',
        '{"json_schema":{"type":"object","properties":{"a":{"type":"null"}}},"arrow_types":{"/properties/a":"int8"}}',
    ],
)
def test_a_record_that_is_not_ours_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        OutputSchema.from_json(text)


def test_neither_pydantic_nor_airflow_is_imported() -> None:
    code = (
        "import sys, airflow_mullama.schemas; print(sorted({'airflow', 'pydantic', 'jsonschema'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
