from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.errors import MissingColumnError, TemplateError
from airflow_mullama.prompts import PromptTemplate
from airflow_mullama.rows import ErrorType, RowError


def render(template: str, **columns: Any) -> list[str | RowError]:
    arrays = [column if isinstance(column, pa.Array) else pa.array(column) for column in columns.values()]
    return PromptTemplate.parse(template).render(pa.RecordBatch.from_arrays(arrays, names=list(columns)))


def test_placeholders_are_replaced_row_by_row() -> None:
    assert render("{a}: {b}!", a=["x", "y"], b=["1", "2"]) == ["x: 1!", "y: 2!"]


def test_a_column_may_stand_several_times_and_in_any_order() -> None:
    assert render("{b}{a}{b}", a=["x"], b=["1"]) == ["1x1"]
    assert PromptTemplate.parse("{b}{a}{b}").distinct_columns == ["b", "a"]


def test_doubled_braces_are_literal_braces() -> None:
    assert render('{{"text": "{a}"}} {{a}}', a=["x"]) == ['{"text": "x"} {a}']


def test_a_template_without_columns_is_the_same_for_every_row() -> None:
    assert render("say hi {{}}", a=["x", None, "z"]) == ["say hi {}"] * 3


def test_text_of_a_row_is_never_read_as_a_template() -> None:
    hostile = "{a} {{b}} {0} {a.__class__} %s $a"
    assert render("{a}", a=[hostile]) == [hostile]


@pytest.mark.parametrize("name", ["two words", "ünïcode", "a.b", "a-b", "$x", "class", "😀", " padded "])
def test_any_column_name_that_can_stand_between_braces_works(name: str) -> None:
    assert render("<{" + name + "}>", **{name: ["x"]}) == ["<x>"]


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{a!r}", "'a'"),
        ("{a!s} and", "'a'"),
        ("{a:>3}", "'a'"),
        ("{a:{b}}", "'a'"),
        ("{}", "{}"),
        ("{0}", "{0}"),
        ("{a[0]}", "{a[0]}"),
        ("{a[key]}", "{a[key]}"),
    ],
)
def test_a_placeholder_that_is_more_than_a_column_name_is_refused(template: str, names: str) -> None:
    with pytest.raises(TemplateError) as caught:
        PromptTemplate.parse(template)
    message = str(caught.value)
    assert names in message
    assert "column" in message
    assert "\n" not in message


@pytest.mark.parametrize("template", ["{a", "a}", "{a} and {", "}{", "{a[0}", "{{a}"])
def test_unbalanced_braces_are_refused_with_the_way_to_write_a_literal_one(template: str) -> None:
    with pytest.raises(TemplateError) as caught:
        PromptTemplate.parse(template)
    assert "literal brace" in str(caught.value)
    assert template in str(caught.value)


@pytest.mark.parametrize("template", [None, 5, ["{a}"], b"{a}"])
def test_a_template_that_is_no_text_is_refused(template: Any) -> None:
    with pytest.raises(TemplateError, match="A template is a text"):
        PromptTemplate.parse(template)


def test_an_attribute_is_only_a_column_name_that_does_not_exist() -> None:
    with pytest.raises(MissingColumnError, match=r"no column 'a\.__class__'; it has: a, b"):
        PromptTemplate.parse("{a.__class__}").require_columns(["a", "b"])


def test_missing_columns_are_named_with_those_there_are() -> None:
    with pytest.raises(MissingColumnError) as caught:
        PromptTemplate.parse("{a} {x} {y} {x}").require_columns(["a", "b"])
    assert str(caught.value) == "The input has no column 'x', 'y'; it has: a, b."


def test_a_null_gives_no_request_and_says_which_column() -> None:
    (error,) = render("{a} {b}", a=["x"], b=pa.array([None], pa.string()))
    assert error == RowError(ErrorType.NULL_INPUT, "column 'b' is null")


def test_an_empty_text_is_no_null() -> None:
    assert render("{a}", a=["", " "]) == ["", " "]


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (pa.array([7], pa.int8()), "7"),
        (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
        (pa.array([True]), "true"),
        (pa.array([False]), "false"),
        (pa.array([0.1]), "0.1"),
        (pa.array([float("nan")]), "nan"),
        (pa.array([decimal.Decimal("1.50")]), "1.50"),
        (pa.array([datetime.date(2026, 1, 31)]), "2026-01-31"),
        (pa.array([datetime.time(1, 2, 3)]), "01:02:03"),
        (pa.array([0], pa.timestamp("us", "UTC")), "1970-01-01T00:00:00+00:00"),
        (pa.array([0], pa.timestamp("ms")), "1970-01-01T00:00:00"),
        (pa.array([datetime.timedelta(hours=1)]), "1:00:00"),
        (pa.array([b"caf\xc3\xa9"]), "café"),
        (pa.array(["x"], pa.large_string()), "x"),
        (pa.array(["x"], pa.string_view()), "x"),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array([["é", None]]), '["é", null]'),
        (pa.array([{"k": 1, "s": "ü"}]), '{"k": 1, "s": "ü"}'),
        (pa.array([uuid.UUID(int=1).bytes], pa.uuid()), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_values_are_written_as_people_write_them(array: pa.Array, text: str) -> None:
    assert render("{a}", a=array) == [text]


def test_bytes_that_are_no_text_are_that_rows_error_alone() -> None:
    fine, broken = render("{a}", a=pa.array([b"ok", b"\xff\xfe"]))
    assert fine == "ok"
    assert isinstance(broken, RowError)
    assert broken.error_type is ErrorType.RENDER_ERROR
    assert "'a'" in broken.message


def test_a_text_column_with_broken_utf8_costs_only_its_row() -> None:
    column = pa.array([b"ok", b"\xff", None, b"fine"]).cast(pa.binary()).view(pa.string())
    first, broken, null, last = render("{a}", a=column)
    assert (first, last) == ("ok", "fine")
    assert isinstance(broken, RowError)
    assert broken.error_type is ErrorType.RENDER_ERROR
    assert isinstance(null, RowError)
    assert null.error_type is ErrorType.NULL_INPUT


@pytest.mark.parametrize(
    "data_type", [pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.duration("ns"), pa.time64("ns")]
)
def test_nanoseconds_are_text_like_any_other_time(data_type: pa.DataType) -> None:
    (text,) = render("{a}", a=pa.array([1_000_000_001], data_type))
    assert isinstance(text, str)


@given(
    pieces=st.lists(st.tuples(st.text(max_size=5), st.sampled_from(["a", "b"])), max_size=5),
    values=st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=4),
)
def test_a_template_is_its_literals_and_values_and_nothing_else(
    pieces: list[tuple[str, str]], values: list[tuple[str, str]]
) -> None:
    def plain(text: str) -> str:
        return text.encode("utf-8", "replace").decode()

    pieces = [(plain(literal), name) for literal, name in pieces]
    values = [(plain(a), plain(b)) for a, b in values]
    template = "".join(f"{literal.replace('{', '{{').replace('}', '}}')}{{{name}}}" for literal, name in pieces)
    expected = ["".join(literal + {"a": a, "b": b}[name] for literal, name in pieces) for a, b in values]
    columns = {name: pa.array([row[place] for row in values], pa.string()) for place, name in enumerate("ab")}
    assert render(template, **columns) == expected
