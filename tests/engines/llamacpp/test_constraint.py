"""Which way answers are held to an output schema, and that it holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from template_models import write_template_model

from airflow_mullama.engines.base import Generation, Request
from airflow_mullama.engines.llamacpp.completions import Written
from airflow_mullama.engines.llamacpp.constraint import NOT_HELD, begins_as_asked, find_constraint
from airflow_mullama.models.gguf_header import GgufHeader
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.schemas import Violation, load_output_schema, parse_answer

SCHEMA = load_output_schema(
    {
        "type": "object",
        "properties": {
            "label": {"enum": ["red", "green row"]},
            "points": {"type": "integer", "minimum": 1, "maximum": 5},
            "why": {"type": "string", "minLength": 1, "maxLength": 8},
            "parts": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
            "day": {"type": ["null"]},
        },
        "required": ["label", "points", "why", "parts", "day"],
    }
)
HOT = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
BLANK_FIRST = GgufHeader({"tokenizer.ggml.model": "llama"})
BYTE_LEVEL = GgufHeader({"tokenizer.ggml.model": "gpt2"})


def written(text: str) -> Written:
    return Written(text, cut=True, prompt_tokens=1, completion_tokens=1)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("template", "way"),
    [
        ("llama2", "grammar"),
        ("phi3", "grammar"),
        ("internlm2", "grammar"),
        ("gemma", "json_schema"),
        ("llama3", "json_schema"),
    ],
)
def test_every_kind_of_vocabulary_is_held_to_the_schema(
    tmp_path: Path, start_engine: Callable[..., Any], template: str, way: str
) -> None:
    model = write_template_model(tmp_path / "m.gguf", template)
    engine = start_engine(model, output_schema=SCHEMA.to_json(), max_tokens=200, sampling=HOT)
    assert engine.info.constrained is True
    assert list(engine._constraint.fields) == [way]
    requests = engine.prepare([Request(row, 1, f"row {row}") for row in range(8)])
    for outcome in (engine.run([request])[0] for request in requests):
        assert isinstance(outcome, Generation)
        assert outcome.finish_reason == "stop", outcome
        # A token of half a character is one to the grammar, and several replacement characters to the reader.
        answer = outcome.response.replace("\ufffd", "")
        assert not isinstance(parse_answer(answer, SCHEMA), Violation), outcome.response


def test_what_does_not_hold_is_not_used() -> None:
    asked: list[str] = []

    def only_grammars_hold(body: Mapping[str, Any]) -> Written:
        asked.append("grammar" if "grammar" in body else "json_schema")
        return written('{"label":"r' if "grammar" in body else " Xend\ufffd5wh")

    constraint = find_constraint(SCHEMA, BYTE_LEVEL, only_grammars_hold)
    assert (list(constraint.fields), constraint.held, asked) == (["grammar"], True, ["json_schema", "grammar"])


@pytest.mark.parametrize("answer", [written("Sure! {"), RowError(ErrorType.ENGINE_ERROR, "llama.cpp: no such grammar")])
@pytest.mark.parametrize("header", [BLANK_FIRST, BYTE_LEVEL])
def test_where_nothing_holds_the_log_says_so_and_nothing_is_claimed(
    header: GgufHeader, answer: Written | RowError
) -> None:
    constraint = find_constraint(SCHEMA, header, lambda _: answer)
    assert (dict(constraint.fields), constraint.held, constraint.notes) == ({}, False, (NOT_HELD,))


def test_a_vocabulary_that_puts_a_blank_first_is_not_given_to_llguidance() -> None:
    def holds(_: Mapping[str, Any]) -> Written:
        return written('{"label":"red","poi')

    given = {**BLANK_FIRST.metadata, "tokenizer.ggml.add_space_prefix": False}
    ways = [
        next(iter(find_constraint(SCHEMA, header, holds).fields))
        for header in (BLANK_FIRST, GgufHeader(given), BYTE_LEVEL)
    ]
    assert ways == ["grammar", "json_schema", "json_schema"]


@pytest.mark.parametrize(
    ("text", "names", "required", "begins"),
    [
        ('{"label":"red"', ["label"], ["label"], True),
        ('{\n  "label" : "r', ["label"], ["label"], True),
        ('{"la', ["label"], ["label"], True),
        ('{"b":', ["a", "b"], [], True),
        ("{}", ["a"], [], True),
        ("{}", ["a"], ["a"], False),
        ('{"naïve n\ufffd', ["naïve name"], [], True),
        ('{" label":', ["label"], ["label"], True),
        ('{"other":1', ["label"], ["label"], False),
        ("{", ["label"], ["label"], False),
        ("", ["label"], ["label"], False),
        ("Hello", ["label"], ["label"], False),
    ],
)
def test_how_a_constrained_answer_begins(text: str, names: list[str], required: list[str], begins: bool) -> None:
    properties = {name: {"type": "string"} for name in names}
    schema = load_output_schema({"type": "object", "properties": properties, "required": required})
    assert begins_as_asked(text, schema) is begins
