"""The schema as a grammar of llama.cpp's own, for models whose vocabulary llguidance reads wrongly.

The language: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md. A grammar has every value of the
schema, in its usual spelling and without white space between tokens. It is wider where the language has no words for a
rule: of numbers only the digits are counted. Answers are checked all the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_mullama.schemas.llama_cpp import MOST_INTEGER, MOST_REPETITIONS, llama_cpp_schema
from airflow_mullama.schemas.output_schema import OutputSchema

_CHARACTER = r'[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})'
# Digits that the longest number of 64 bits has; a double has no use for more.
_MOST_DIGITS = 19
_DIGITS = f'("0" | [1-9] [0-9]{{0,{_MOST_DIGITS - 1}}})'
_NUMBER = f'"-"? {_DIGITS} ("." [0-9]{{1,{_MOST_DIGITS}}})? ([eE] [+-]? [12]? [0-9]{{1,2}})?'
_TWO_DIGITS = "[0-5] [0-9]"
_HOUR = '([01] [0-9] | "2" [0-3])'
_DATE = '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
_TIME = f'{_HOUR} ":" {_TWO_DIGITS} ":" {_TWO_DIGITS} ("." [0-9]{{1,9}})? ("Z" | [+-] {_HOUR} ":" {_TWO_DIGITS})'
# A range of integers is written out up to so many, such as the points of a rating.
_MOST_LISTED = 1000


def gbnf_grammar(schema: OutputSchema) -> str:
    """What to give llama.cpp as ``grammar``."""
    rules = _Rules()
    rules.add("root", rules.value(llama_cpp_schema(schema)))
    return "".join(f"{name} ::= {body}\n" for name, body in rules.by_name.items())


class _Rules:
    """The rules of a grammar, in the order in which they are needed."""

    def __init__(self) -> None:
        self.by_name: dict[str, str] = {}
        self._by_body: dict[str, str] = {}

    def add(self, name: str, body: str) -> str:
        self.by_name[name] = body
        self._by_body[body] = name
        return name

    def new(self, body: str) -> str:
        """A rule without a name of its own; the same body twice is one rule."""
        return self._by_body.get(body) or self.add(f"part-{len(self.by_name)}", body)

    def value(self, schema: Mapping[str, Any]) -> str:
        """What matches a value."""
        if "enum" in schema:
            return _any_of(_literal(json.dumps(choice, ensure_ascii=False)) for choice in schema["enum"])
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return _any_of(self._of_kind(kind, schema) for kind in kinds)

    def _of_kind(self, kind: str, schema: Mapping[str, Any]) -> str:
        if kind == "object":
            return self._object(schema)
        if kind == "array":
            return self._array(schema)
        if kind == "string":
            return self._string(schema)
        if kind == "integer":
            return _integer(schema)
        if kind == "number":
            return self.new(_NUMBER)
        return '("true" | "false")' if kind == "boolean" else '"null"'

    def _string(self, schema: Mapping[str, Any]) -> str:
        if (format_ := schema.get("format")) is not None:
            moment = self.new(_DATE if format_ == "date" else f'{_DATE} "T" {_TIME}')
            return rf'"\"" {moment} "\""'
        character = self.add("character", _CHARACTER)
        return rf'"\"" {character}{_repeated(schema.get("minLength", 0), schema.get("maxLength"))} "\""'

    def _array(self, schema: Mapping[str, Any]) -> str:
        item = self.new(self.value(schema["items"]))
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most == 0:
            return '"[]"'
        further = _repeated(max(0, least - 1), None if most is None else most - 1)
        items = f'{item} ("," {item}){further}'
        return f'"[" {items} "]"' if least else f'"[" ({items})? "]"'

    def _object(self, schema: Mapping[str, Any]) -> str:
        """The properties in their order; where one may be left out, what follows depends on whether a comma is due."""
        required = frozenset(schema.get("required", ()))
        rest: dict[bool, str] = {False: '"}"', True: '"}"'}
        for name, value in reversed(schema["properties"].items()):
            key = _literal(json.dumps(name, ensure_ascii=False) + ":")
            member = f"{key} {self.new(self.value(value))} {rest[True]}"
            before = dict(rest)
            for comma in (False, True):
                present = f'"," {member}' if comma else member
                rest[comma] = self.new(present if name in required else f"{present} | {before[comma]}")
        return f'"{{" {rest[False]}'


def _any_of(alternatives: Iterable[str]) -> str:
    listed = list(alternatives)
    return listed[0] if len(listed) == 1 else f"({' | '.join(listed)})"


def _one_of(numbers: list[str]) -> str:
    """Any of some numbers, by their first characters: at each alternative llama.cpp looks at the whole vocabulary."""
    behind: dict[str, list[str]] = {}
    for number in numbers:
        behind.setdefault(number[:1], []).append(number[1:])
    can_end = behind.pop("", None) is not None
    found = _any_of(_literal(first) + (f" {_one_of(rest)}" if rest != [""] else "") for first, rest in behind.items())
    return f"({found})?" if can_end else found


def _literal(text: str) -> str:
    """A text in the grammar's quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _repeated(least: int, most: int | None) -> str:
    if most is None:
        return "*" if least == 0 else f"{{{min(least, MOST_REPETITIONS)},}}"
    return f"{{{least},{most}}}"


def _integer(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minimum", -MOST_INTEGER), schema.get("maximum", MOST_INTEGER)
    if most - least < _MOST_LISTED:
        return _one_of([str(number) for number in range(least, most + 1)])
    digits = max(len(str(abs(least))), len(str(abs(most))))
    sign = '"-"? ' if least < 0 else ""
    return f'{sign}("0" | [1-9] [0-9]{{0,{digits - 1}}})'
