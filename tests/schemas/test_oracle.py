"""Random schemas and random answers, with `jsonschema` as the judge of who is right."""

from __future__ import annotations

import copy
import datetime
import io
import json
import re
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import xllamacpp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mullama.schemas import (
    OutputSchema,
    Violation,
    llama_cpp_schema,
    load_output_schema,
    parse_answer,
    typed_columns,
)

SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FORMATS = jsonschema.FormatChecker(formats=())


@FORMATS.checks("date")
def is_date(text: object) -> bool:
    return not isinstance(text, str) or (len(text) == 10 and parses(datetime.date.fromisoformat, text))


@FORMATS.checks("date-time")
def is_date_time(text: object) -> bool:
    if not isinstance(text, str):
        return True
    plain = re.sub(r"[zZ]$", "+00:00", text).replace("t", "T")
    return re.search(r"T.*[+-]..:..$", plain) is not None and parses(datetime.datetime.fromisoformat, plain)


def parses(parse: Any, text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
SMALL = st.integers(-20, 20)
HALVES = SMALL.map(lambda number: number / 2)


def ordered(low: str, high: str, numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    pair = st.tuples(numbers, numbers).map(sorted)
    return pair.flatmap(
        lambda two: st.fixed_dictionaries({}, optional={low: st.just(two[0]), high: st.just(two[1] + 2)})
    )


SCALARS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    ordered("minLength", "maxLength", st.integers(0, 3)).map(lambda rest: {"type": "string", **rest}),
    ordered("minimum", "maximum", HALVES).map(lambda rest: {"type": "integer", **rest}),
    ordered("exclusiveMinimum", "exclusiveMaximum", SMALL).map(lambda rest: {"type": "integer", **rest}),
    ordered("minimum", "exclusiveMaximum", HALVES).map(lambda rest: {"type": "number", **rest}),
    st.sampled_from(["date", "date-time"]).map(lambda name: {"type": "string", "format": name}),
    st.lists(TEXTS, min_size=1, max_size=4, unique=True).map(lambda choices: {"enum": choices}),
    st.lists(SMALL, min_size=1, max_size=4, unique=True).map(lambda choices: {"type": "integer", "enum": choices}),
    st.lists(HALVES, min_size=1, max_size=4, unique=True).map(lambda choices: {"type": "number", "enum": choices}),
    TEXTS.map(lambda choice: {"const": choice, "title": "T"}),
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
)


def nullable(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    if schema.get("type") == "null":
        return st.just(schema)
    ways: list[dict[str, Any]] = [schema, {"anyOf": [schema, {"type": "null"}], "description": "maybe"}]
    if "enum" not in schema and "const" not in schema:
        ways += [{**schema, "type": [schema["type"], "null"]}, {"oneOf": [{"type": "null"}, schema]}]
    return st.sampled_from(ways)


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, values, min_size=1, max_size=3))
    schema = {"type": "object", "properties": properties}
    schema["required"] = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
    return {**schema, **draw(st.sampled_from([{}, {"additionalProperties": False}, {"additionalProperties": True}]))}


def inside(values: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    arrays = st.tuples(values, ordered("minItems", "maxItems", st.integers(0, 2))).map(
        lambda parts: {"type": "array", "items": parts[0], **parts[1]}
    )
    return (arrays | objects(values)).flatmap(nullable)


SCHEMAS = objects(st.recursive(SCALARS.flatmap(nullable), inside, max_leaves=5))
INSTANTS = st.datetimes(timezones=st.just(datetime.timezone.utc)).map(lambda instant: instant.isoformat())
JUNK = st.recursive(
    st.none() | st.booleans() | SMALL | HALVES | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=4,
)


@st.composite
def answers(draw: st.DrawFn, schema: dict[str, Any]) -> Any:
    """Mostly what a canonical schema asks for; now and then, at any depth, something else."""
    if draw(st.integers(0, 15)) == 15:
        return draw(JUNK)
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kind = draw(st.sampled_from(kinds))
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    if kind == "object":
        answer = {name: draw(answers(part)) for name, part in schema["properties"].items()}
        for name in draw(st.lists(st.sampled_from(sorted(answer)), max_size=1)):
            if name not in schema.get("required", []) or draw(st.booleans()):
                del answer[name]
        return {**draw(st.dictionaries(NAMES, JUNK, max_size=1)), **answer} if draw(st.booleans()) else answer
    if kind == "array":
        size = draw(st.integers(schema.get("minItems", 0), schema.get("maxItems", 4)))
        return [draw(answers(schema["items"])) for _ in range(size)]
    if kind == "string":
        shape = {"date": st.dates().map(str), "date-time": INSTANTS}
        return draw(shape.get(schema.get("format", ""), st.text(TEXTS.map(lambda t: t[:1] or "x"), max_size=5)))
    return draw(
        {"integer": SMALL | SMALL.map(float), "number": HALVES | SMALL, "boolean": st.booleans()}.get(kind, st.none())
    )


@st.composite
def schemas_with_answers(draw: st.DrawFn) -> tuple[dict[str, Any], OutputSchema, list[Any]]:
    source = draw(SCHEMAS)
    schema = load_output_schema(copy.deepcopy(source))
    return source, schema, draw(st.lists(answers(schema.json_schema), min_size=1, max_size=4))


@SETTINGS
@given(schemas_with_answers())
def test_an_answer_passes_exactly_if_jsonschema_passes_it(case: tuple[dict[str, Any], OutputSchema, list[Any]]) -> None:
    source, schema, given_answers = case
    judges = [
        jsonschema.Draft202012Validator(document, format_checker=FORMATS) for document in (source, schema.json_schema)
    ]
    parsed: list[dict[str, Any] | None] = [None]
    for answer in given_answers:
        outcome = parse_answer(json.dumps(answer), schema)
        assert [judge.is_valid(answer) for judge in judges] == [not isinstance(outcome, Violation)] * 2, outcome
        if isinstance(outcome, dict):
            parsed.append(outcome)
    columns = typed_columns(parsed, schema)
    assert [column.type for column in columns] == [field.type for field in schema.fields]
    assert all(column.is_null()[0].as_py() or pa.types.is_null(column.type) for column in columns)
    table = pa.Table.from_arrays(columns, schema=pa.schema(schema.fields))
    table.validate(full=True)
    file = io.BytesIO()
    pq.write_table(table, file)
    assert pq.read_table(file).schema.equals(table.schema)
    assert pq.read_table(file).to_pylist() == table.to_pylist()


@SETTINGS
@given(SCHEMAS)
def test_the_canonical_schema_is_stable_and_recorded_whole(source: dict[str, Any]) -> None:
    schema = load_output_schema(source)
    assert load_output_schema(schema.json_schema) == schema
    assert OutputSchema.from_json(schema.to_json()) == schema
    assert OutputSchema.from_json(schema.to_json()).to_json() == schema.to_json()
    assert list(schema.json_schema["properties"]) == list(source["properties"]) == [f.name for f in schema.fields]
    jsonschema.Draft202012Validator.check_schema(schema.json_schema)
    assert xllamacpp.json_schema_to_grammar(llama_cpp_schema(schema))


@SETTINGS
@given(schemas_with_answers())
def test_what_llama_cpp_is_held_to_allows_every_good_answer(
    case: tuple[dict[str, Any], OutputSchema, list[Any]],
) -> None:
    _, schema, given_answers = case
    judge = jsonschema.Draft202012Validator(llama_cpp_schema(schema), format_checker=FORMATS)
    for answer in given_answers:
        if isinstance(parse_answer(json.dumps(answer), schema), dict):
            errors = [error for error in judge.iter_errors(answer) if error.validator != "additionalProperties"]
            assert not errors


WIDTHS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
STAMPS = [pa.timestamp(unit, zone) for unit in ("ms", "us", "ns") for zone in (None, "UTC", "Europe/Berlin", "+02:00")]
ARROW_SCALARS = st.sampled_from(
    [
        *WIDTHS,
        *STAMPS,
        *(pa.float32(), pa.float64(), pa.bool_(), pa.null(), pa.date32()),
        *(pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())),
    ]
)


def arrow_fields(types: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[list[pa.Field]]:
    pairs = st.lists(st.tuples(NAMES, types), min_size=1, max_size=3, unique_by=lambda pair: pair[0])
    return pairs.map(lambda named: [pa.field(name, kind) for name, kind in named])


ARROW_TYPES = st.recursive(
    ARROW_SCALARS,
    lambda types: st.one_of(
        types.map(pa.list_),
        types.map(pa.large_list),
        st.tuples(types, st.integers(1, 3)).map(lambda two: pa.list_(two[0], two[1])),
        arrow_fields(types).map(pa.struct),
    ),
    max_leaves=4,
)


@SETTINGS
@given(arrow_fields(ARROW_TYPES), st.data())
def test_an_arrow_schema_gives_its_own_fields_back(fields: list[pa.Field], data: st.DataObject) -> None:
    schema = load_output_schema(pa.schema(fields))
    assert list(schema.fields) == fields
    assert OutputSchema.from_json(schema.to_json()) == schema
    outcomes = [
        parse_answer(json.dumps(data.draw(answers(schema.json_schema))), schema),
        parse_answer(json.dumps({field.name: None for field in fields}), schema),
    ]
    assert isinstance(outcomes[1], dict)  # every field is nullable
    columns = typed_columns([row for row in outcomes if isinstance(row, dict)], schema)
    table = pa.Table.from_arrays(columns, schema=pa.schema(fields))
    file = io.BytesIO()
    pq.write_table(table, file)
    assert pq.read_table(file).schema.equals(table.schema)


@SETTINGS
@given(st.text(max_size=40) | JUNK.map(json.dumps), SCHEMAS)
def test_no_text_raises(text: str, source: dict[str, Any]) -> None:
    outcome = parse_answer(text, load_output_schema(source))
    if isinstance(outcome, Violation):
        assert outcome.path.startswith("$")
        outcome.row_error.message.encode()
