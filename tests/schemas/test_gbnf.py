"""Output schemas as grammars of llama.cpp's own."""

from __future__ import annotations

import re
from typing import Any

import pytest

from airflow_mullama.schemas import gbnf_grammar, load_output_schema


def rules(schema: dict[str, Any]) -> dict[str, str]:
    grammar = gbnf_grammar(load_output_schema({"type": "object", **schema}))
    return dict(line.split(" ::= ", 1) for line in grammar.splitlines())


def test_properties_stand_in_their_order_and_optional_ones_may_be_left_out() -> None:
    found = rules({"properties": {"a": {"type": "boolean"}, "b": {"type": "null"}}, "required": ["b"]})
    assert found["root"].startswith('"{" part-')
    start = found[found["root"].split()[1]]
    with_a, without_a = start.split(" | ")
    assert with_a.startswith(r'"\"a\":" part-')
    assert found[with_a.split()[-1]].startswith(r'"," "\"b\":" part-')
    assert found[without_a].startswith(r'"\"b\":" part-')


def test_what_stands_in_quotes_is_the_authors_own_text() -> None:
    found = rules({"properties": {'b "\n': {"enum": ["é😀", 'a "quoted" one', "back\\slash"]}}})
    text = "\n".join(found.values())
    assert r'"\"b \\\"\\n\":"' in text
    assert r'"\"é😀\"" | "\"a \\\"quoted\\\" one\"" | "\"back\\\\slash\""' in text


@pytest.mark.parametrize(
    ("bounds", "pattern"),
    [
        ({"minimum": 1, "maximum": 5}, "1|2|3|4|5"),
        ({"minimum": -2, "maximum": 11}, "-(2|1)|0|1((0|1))?|2|3|4|5|6|7|8|9"),
        ({"minimum": 0}, "(0|[1-9][0-9]{0,18})"),
        ({}, "-?(0|[1-9][0-9]{0,18})"),
    ],
)
def test_small_ranges_of_integers_are_exact_and_others_have_bounded_digits(
    bounds: dict[str, int], pattern: str
) -> None:
    body = next(iter(rules({"properties": {"n": {"type": "integer", **bounds}}}).values()))
    assert body.replace('"', "").replace(" ", "") in (pattern, f"({pattern})")


def test_a_range_is_matched_whole() -> None:
    body = next(iter(rules({"properties": {"n": {"type": "integer", "minimum": -7, "maximum": 123}}}).values()))
    matched = re.compile(body.replace('"', "").replace(" ", ""))
    assert [n for n in range(-200, 2000) if matched.fullmatch(str(n))] == list(range(-7, 124))


def test_the_same_rule_is_written_once() -> None:
    found = rules({"properties": {f"p{n}": {"type": "string", "maxLength": 5} for n in range(20)}})
    assert sum("character{0,5}" in body for body in found.values()) == 1
