"""From a model's text to a checked answer, or to what is wrong with it. Nothing a model writes raises here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.schemas.output_schema import OutputSchema
from airflow_mullama.schemas.values import Mismatch, NumberText, shown

# ```json … ``` around the whole answer, which many chat models add whatever they are told.
_FENCED = re.compile(r"```[A-Za-z0-9_-]*\s*(.*?)\s*```", re.DOTALL)
# Digits that any 64-bit integer fits into; a longer number is kept as text until its kind is known.
_SHORT_INTEGER = 18


@dataclass(frozen=True)
class Violation:
    """Why an answer is not what the schema asks for.

    Args:
        error_type: ``invalid_json`` (the text cannot be read) or ``schema_mismatch`` (it can, and breaks the schema).
        path: where, such as ``$.tags[2]``; ``$`` is the whole answer.
        reason: what is wrong there, in one short line.
    """

    error_type: ErrorType
    path: str
    reason: str

    @property
    def row_error(self) -> RowError:
        """The same as a row's error."""
        return RowError(self.error_type, f"{self.path}: {self.reason}")


def parse_answer(text: str, schema: OutputSchema) -> dict[str, Any] | Violation:
    """Read and check one answer.

    White space around it and a Markdown code fence around all of it are taken off. A key that occurs twice in an
    object, NaN, Infinity and anything after the object are ``invalid_json``; properties that the schema does not name
    are dropped, unless it says ``additionalProperties: false``.

    Args:
        text: what the model wrote.
        schema: what it should have written.

    Returns:
        One value per field for :func:`airflow_mullama.schemas.typed_columns` (``None`` for an optional property that
        is not there), or the first violation.
    """
    body = text.strip().lstrip("\ufeff")
    if fenced := _FENCED.fullmatch(body):
        body = fenced[1]
    try:
        answer = json.loads(
            body,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=NumberText,
            parse_constant=_refuse_constant,
        )
        read: dict[str, Any] = schema.root.read(answer, "$")
    except Mismatch as mismatch:
        return Violation(mismatch.error_type, mismatch.path, mismatch.reason)
    except json.JSONDecodeError as error:
        if not body:
            return Violation(ErrorType.INVALID_JSON, "$", "the answer is empty")
        place = f"line {error.lineno}, column {error.colno}"
        return Violation(ErrorType.INVALID_JSON, "$", f"{error.msg.rstrip(':')} at {place}")
    except RecursionError:
        return Violation(ErrorType.INVALID_JSON, "$", "arrays or objects are nested too deeply")
    return read


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                reason = f"the key {shown(name)} stands twice in one object"
                raise Mismatch("$", reason, ErrorType.INVALID_JSON)
            seen.add(name)
    return read


def _integer(text: str) -> int | NumberText:
    return int(text) if len(text) <= _SHORT_INTEGER else NumberText(text)


def _refuse_constant(text: str) -> NoReturn:
    raise Mismatch("$", f"{text} is not JSON", ErrorType.INVALID_JSON)
