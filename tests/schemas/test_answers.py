from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.schemas import OutputSchema, Violation, load_output_schema, parse_answer, typed_columns

UTC = datetime.timezone.utc


def one(value: dict[str, Any], **rest: Any) -> OutputSchema:
    return load_output_schema({"type": "object", "properties": {"a": value}, "required": ["a"], **rest})


def read(text: str, value: dict[str, Any]) -> Any:
    outcome = parse_answer(f'{{"a": {text}}}', one(value))
    return outcome if isinstance(outcome, Violation) else outcome["a"]


INTEGER = {"type": "integer"}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        ' \n {"a": 1}\t\n',
        '\ufeff{"a": 1}',
        '```json\n{"a": 1}\n```',
        '\n```\n{"a": 1}\n```  ',
        '```JSON\r\n{"a": 1}```',
        '```{"a": 1}```',
        '{"a": 1, "more": {"b": [1e999]}}',
    ],
)
def test_what_models_put_around_an_answer_is_taken_off(text: str) -> None:
    assert parse_answer(text, one(INTEGER)) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("```json\n```", "empty"),
        ("yes", "Expecting value at line 1, column 1"),
        ('{"a": 1} and more', "Extra data at line 1, column 10"),
        ('{"a": 1', "Expecting ',' delimiter"),
        ('```json\n{"a": 1}', "Expecting value"),
        ('{"a": 1, "a": 2}', 'the key "a" stands twice'),
        ('{"a": 1, "b": [{"c": 1, "c": 1}]}', 'the key "c" stands twice'),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": -Infinity}', "-Infinity is not JSON"),
        ("{'a': 1}", "Expecting property name"),
        ('{"a": 01}', "Expecting ',' delimiter"),
        ('{"a": "\n"}', "Invalid control character"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("\ud800", "Expecting value"),
    ],
)
def test_what_is_no_json_is_said_to_be_none(text: str, reason: str) -> None:
    outcome = parse_answer(text, one(INTEGER))
    assert isinstance(outcome, Violation)
    assert outcome.error_type is ErrorType.INVALID_JSON
    assert reason in outcome.reason


def test_half_a_surrogate_pair_is_no_text_and_can_be_reported() -> None:
    outcome = read('"x\\ud800"', {"type": "string"})
    assert (outcome.error_type, outcome.path) == (ErrorType.INVALID_JSON, "$.a")
    outcome.reason.encode()
    assert read('"\\ud83d\\ude00"', {"type": "string"}) == "😀"
    closed = one(INTEGER, additionalProperties=False)
    outcome = parse_answer('{"a": 1, "\\ud800": 1}', closed)
    assert isinstance(outcome, Violation)
    outcome.reason.encode()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("3", 3), ("3.0", 3), ("-0", 0), ("-0.0", 0), ("1e2", 100), ("0e-999999999", 0)),
        ("9007199254740993.0", 9007199254740993),
        ("9223372036854775807", 2**63 - 1),
        ("-9.223372036854775808e18", -(2**63)),
    ],
)
def test_a_whole_number_is_an_integer_however_it_is_written(text: str, number: int) -> None:
    assert read(text, INTEGER) == number


@pytest.mark.parametrize(
    "text",
    [
        *(
            "0.5",
            "1e-999999999",
            "9223372036854775808",
            "-9223372036854775809",
            "1e999999999",
            "1e99999999999999999999",
        ),
        *("9" * 100_000, "true", '"1"', "[1]", "{}", "null"),
    ],
)
def test_what_is_no_64_bit_integer_is_a_mismatch(text: str) -> None:
    outcome = read(text, INTEGER)
    assert (outcome.error_type, outcome.path) == (ErrorType.SCHEMA_MISMATCH, "$.a")
    assert len(outcome.reason) < 150


def test_numbers_become_doubles_and_never_infinite() -> None:
    number = {"type": "number"}
    assert [read(text, number) for text in ("1", "0.1", "1" + "0" * 30, "1e-400")] == [1.0, 0.1, 1e30, 0.0]
    assert isinstance(read("1", number), float)
    for text in ("1e999", "-1e999", "9" * 400):
        assert read(text, number).error_type is ErrorType.SCHEMA_MISMATCH


def test_a_float32_column_refuses_what_it_would_make_infinite() -> None:
    schema = load_output_schema(pa.schema([("a", pa.float32())]))
    assert parse_answer('{"a": 3e38}', schema) == {"a": 3e38}
    assert isinstance(parse_answer('{"a": 4e38}', schema), Violation)


def test_integers_keep_the_width_of_their_column() -> None:
    schema = load_output_schema(pa.schema([("a", pa.uint64()), ("b", pa.int8())]))
    assert schema.json_schema["properties"]["b"] == {"type": ["integer", "null"], "minimum": -128, "maximum": 127}
    assert parse_answer('{"a": 18446744073709551615, "b": -128}', schema) == {"a": 2**64 - 1, "b": -128}
    for broken in ('{"a": 18446744073709551616, "b": 1}', '{"a": -1, "b": 1}', '{"a": 1, "b": 128}'):
        assert isinstance(parse_answer(broken, schema), Violation)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2024-02-29T12:30:00Z", datetime.datetime(2024, 2, 29, 12, 30, tzinfo=UTC)),
        ("2024-02-29t12:30:00.5z", datetime.datetime(2024, 2, 29, 12, 30, 0, 500_000, tzinfo=UTC)),
        ("2024-02-29T12:30:00.1234567891+02:00", datetime.datetime(2024, 2, 29, 10, 30, 0, 123_456, tzinfo=UTC)),
        ("2024-02-29T00:30:00-23:59", datetime.datetime(2024, 3, 1, 0, 29, tzinfo=UTC)),
    ],
)
def test_a_date_time_is_an_instant(text: str, instant: datetime.datetime) -> None:
    assert read(f'"{text}"', {"type": "string", "format": "date-time"}) == instant


@pytest.mark.parametrize(
    "text",
    [
        *("2024-02-30T12:30:00Z", "2024-02-29T24:00:00Z", "2024-02-29T12:30:60Z", "2024-02-29T12:30:00", "2024-02-29"),
        *("2024-02-29 12:30:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"),
        *("2024-02-29T12:30:00+24:00", "2024-02-29T12:30:00+0200", "２０24-02-29T12:30:00Z", "2024-02-29T12:30:00Z\\n"),
    ],
)
def test_what_is_no_date_time_is_a_mismatch(text: str) -> None:
    assert isinstance(read(f'"{text}"', {"type": "string", "format": "date-time"}), Violation)


@pytest.mark.parametrize("text", ["2024-02-30", "24-02-01", "20240229", "2024-2-9", "0000-01-01", "2024-02-29Z"])
def test_what_is_no_date_is_a_mismatch(text: str) -> None:
    assert isinstance(read(f'"{text}"', {"type": "string", "format": "date"}), Violation)


def test_a_column_of_another_unit_or_zone_holds_the_same_instant() -> None:
    stamps = [pa.timestamp("ms"), pa.timestamp("us", "Europe/Berlin"), pa.timestamp("ns", "UTC")]
    schema = load_output_schema(pa.schema([(str(position), stamp) for position, stamp in enumerate(stamps)]))
    text = "2024-02-29T12:30:00.123456+02:00"
    parsed = parse_answer(f'{{"0": "{text}", "1": "{text}", "2": "{text}"}}', schema)
    assert isinstance(parsed, dict)
    columns = typed_columns([parsed], schema)
    assert [column.type for column in columns] == stamps
    assert columns[0][0].as_py() == datetime.datetime(2024, 2, 29, 10, 30, 0, 123_000, UTC).replace(tzinfo=None)
    assert columns[1][0].as_py() == columns[2][0].as_py() == datetime.datetime(2024, 2, 29, 10, 30, 0, 123_456, UTC)
    late = parse_answer('{"0": null, "1": null, "2": "2262-04-12T00:00:00Z"}', schema)
    assert isinstance(late, Violation)


def test_the_path_leads_to_the_broken_value() -> None:
    item = {"type": "object", "properties": {"two words": {"type": "array", "items": {"enum": ["x"]}}}}
    schema = one({"type": "array", "items": item})
    outcome = parse_answer('{"a": [{}, {"two words": ["x", "y"]}]}', schema)
    assert isinstance(outcome, Violation)
    assert outcome.row_error == RowError(ErrorType.SCHEMA_MISMATCH, '$.a[1]["two words"][1]: "y" is not one of "x"')


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("[]", "$", "an array of 0 is not an object"),
        ("{}", "$", 'the property "a" is missing'),
        ('{"a": null}', "$.a", "null is not an integer"),
        ('{"a": 0}', "$.a", "0 is less than the minimum 1"),
        ('{"a": 6}', "$.a", "6 is more than the maximum 5"),
        ('{"a": 2, "b": 1}', "$", 'the property "b" is not in the schema'),
        ('"' + "x" * 5000 + '"', "$", "x… is not an object"),
    ],
)
def test_the_reason_is_one_short_line(text: str, path: str, reason: str) -> None:
    schema = one({"type": "integer", "minimum": 1, "maximum": 5}, additionalProperties=False)
    outcome = parse_answer(text, schema)
    assert isinstance(outcome, Violation)
    assert outcome.path == path
    assert outcome.reason.endswith(reason)
    assert len(outcome.reason) < 150


def test_a_further_property_is_seen_where_an_optional_one_is_missing() -> None:
    schema = load_output_schema(
        {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    )
    assert parse_answer("{}", schema) == {"a": None}
    assert isinstance(parse_answer('{"b": 1}', schema), Violation)


def test_a_label_may_be_the_beginning_of_another() -> None:
    schema = {"enum": ["bill", "billing", ""]}
    assert [read(f'"{text}"', schema) for text in ("bill", "billing", "")] == ["bill", "billing", ""]
    assert isinstance(read('"billin"', schema), Violation)


def test_labels_have_the_same_codes_in_every_chunk() -> None:
    schema = one({"enum": ["low", "high"]})
    (column,) = typed_columns([{"a": "high"}, None, {"a": "high"}], schema)
    assert column.dictionary.to_pylist() == ["low", "high"]
    assert column.indices.to_pylist() == [1, None, 1]


def test_no_rows_and_no_results_give_typed_columns() -> None:
    schema = load_output_schema(
        pa.schema([("a", pa.list_(pa.struct([("b", pa.int8())]))), ("c", pa.list_(pa.int32(), 2))])
    )
    for parsed in ([], [None, None]):
        columns = typed_columns(parsed, schema)
        assert [column.type for column in columns] == [field.type for field in schema.fields]
        assert [column.null_count for column in columns] == [len(parsed)] * 2
