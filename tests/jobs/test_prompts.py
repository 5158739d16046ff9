from __future__ import annotations

import datetime
import re
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.errors import MissingColumnError, TemplateError
from airflow_mullama.jobs.prompts import PromptTemplate, request_digest, row_spans_of
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


@pytest.mark.parametrize("name", ["a:b", "a!r", "a[0]", "0", "12", "{a}", "a\\b", "}", "[", "\\"])
def test_any_other_column_name_works_with_backslashes(name: str) -> None:
    escaped = "".join(f"\\{character}" for character in name)
    assert render("<{" + escaped + "}>", **{name: ["x"]}) == ["<x>"]


@pytest.mark.parametrize("template", ["{a:b}", "{a!r}", "{a[0]}", "{0}", '{"a": 1}'])
def test_the_way_that_an_error_shows_works(template: str) -> None:
    with pytest.raises(TemplateError) as caught:
        PromptTemplate.parse(template)
    name = template[1:-1]
    (written,) = re.findall(r"A column that is called .* is written (\{.*?[^\\]\})[,.]", str(caught.value))
    assert PromptTemplate.parse(written).columns == (name,)


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
        ('{"a": "b"}', """{{"a": "b"}}"""),
        ("{a:b}", r"{a\:b}"),
        ("{a:b}", "{{a:b}}"),
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


@pytest.mark.parametrize("template", ["{a", "a}", "{a} and {", "}{", "{a[0}", "{{a}", "{a:{b}}", "{a\\}", "{\\"])
def test_unbalanced_braces_are_refused_with_the_way_to_write_a_literal_one(template: str) -> None:
    with pytest.raises(TemplateError) as caught:
        PromptTemplate.parse(template)
    assert "literal brace" in str(caught.value)
    assert template in str(caught.value).replace("\\\\", "\\")


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


def test_values_are_written_as_texts() -> None:
    assert render("{a} {b}", a=[datetime.date(2026, 1, 31)], b=[{"k": [None, "ü"]}]) == [
        '2026-01-31 {"k": [null, "ü"]}'
    ]


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


class TestRowSpans:
    """A rendered request knows which of it is the row's, so that the author's markers count and the row's do not."""

    def spans(self, template: str, **columns: list[str]) -> list[str | None]:
        """The row's parts of the first request, each in brackets."""
        (text, *_) = PromptTemplate.parse(template).render(pa.RecordBatch.from_pydict(columns))
        assert isinstance(text, str)
        spans = row_spans_of(text)
        return [] if spans is None else [text[start:end] for start, end in zip(spans[::2], spans[1::2], strict=True)]

    def test_they_are_the_values_of_its_columns(self) -> None:
        assert self.spans("<|user|>{a}<|end|>", a=["row"]) == ["row"]
        assert self.spans("{b} and {a}{b}", a=["one"], b=["two"]) == ["two", "one", "two"]
        assert self.spans("always the same", a=["row"]) == []

    def test_a_column_as_it_is_is_the_rows_whole(self) -> None:
        (text,) = PromptTemplate.of_column("a").render(pa.RecordBatch.from_pydict({"a": ["row"]}))
        assert row_spans_of(text) is None

    def test_the_same_text_with_other_parts_is_another_request(self) -> None:
        batch = pa.RecordBatch.from_pydict({"a": ["1<s>", "1"], "b": ["", "<s>"]})
        one, other = PromptTemplate.parse("{a}<s>{b}").render(batch)
        assert str(one) == str(other)
        assert one != other
        assert request_digest(str(one)) == request_digest(str(other))
        assert isinstance(one, str)
        assert isinstance(other, str)
        assert request_digest(one) != request_digest(other)
        assert len({one, other}) == 2
