"""A column of chat messages: lists of ``{role, content}``, or the same as JSON text, checked row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union

import pyarrow as pa
from pyarrow import types

from airflow_mullama.errors import UnsupportedColumnError
from airflow_mullama.rows import ErrorType, RowError

ROLES = ("system", "user", "assistant")
Messages = Sequence[tuple[str, str]]
"""Role and content of each."""

Read = Union[Messages, RowError]  # noqa: UP007 - a runtime value


def refuse_no_messages(field: pa.Field, source: str | None = None) -> None:
    """Refuse a column whose type holds no messages.

    Args:
        field: of the input.
        source: the input, for the message.

    Raises:
        UnsupportedColumnError: says what it must be.
    """
    kind = field.type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if _is_text(kind) or _is_list_of_messages(kind):
        return
    of_input = "" if source is None else f" of {source!r}"
    raise UnsupportedColumnError(
        f"The column {field.name!r}{of_input} is of the type {field.type}, and messages_column must be "
        "list<struct<role: string, content: string>>, or the same as JSON text."
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_list_of_messages(kind: pa.DataType) -> bool:
    if types.is_map(kind) or not (types.is_nested(kind) and hasattr(kind, "value_field")):
        return False
    item = kind.value_type
    return types.is_struct(item) and {"role", "content"} <= {item.field(place).name for place in range(item.num_fields)}


def message_lists(column: pa.Array, name: str) -> list[Read]:
    """Each row's messages, or why it has none. Never raises for what a row holds.

    Args:
        column: of a type that :func:`refuse_no_messages` lets pass.
        name: of the column.
    """
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    parse: Callable[[Any], Any] = json.loads if _is_text(kind) else _same
    return [_read(scalar, parse, name) for scalar in column]


def _same(value: Any) -> Any:
    return value


def _read(scalar: pa.Scalar, parse: Callable[[Any], Any], name: str) -> Read:
    if not scalar.is_valid:
        return RowError(ErrorType.NULL_INPUT, f"column {name!r} is null")
    try:
        value = parse(scalar.as_py())
    except UnicodeDecodeError as error:
        return _error(name, f"holds bytes that are not UTF-8: {error.reason}")
    except (ValueError, RecursionError) as error:
        return _error(name, f"is not JSON: {error}")
    if not isinstance(value, list):
        return _error(name, "is not a list of messages")
    if not value:
        return _error(name, "holds an empty list: there is nothing to ask")
    messages = []
    for number, item in enumerate(value, 1):
        problem = _problem(item)
        if problem is not None:
            return _error(name, f"has a message that cannot be sent, number {number} of {len(value)}: {problem}")
        messages.append((item["role"], item["content"]))
    if messages[-1][0] != "user":
        return _error(name, f"ends with a message of the {messages[-1][0]}: the last one must be the user's")
    return messages


def _problem(item: Any) -> str | None:
    """What is wrong with a message."""
    if not isinstance(item, Mapping):
        return "it is no object with role and content"
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        return f"its role is {role!r}, and it must be {', '.join(ROLES[:-1])} or {ROLES[-1]}"
    if content is None:
        return "it has no content"
    if not isinstance(content, str):
        return f"its content is no text ({type(content).__name__})"
    if more := [key for key, value in item.items() if key not in ("role", "content") and value is not None]:
        return f"it has {', '.join(map(repr, more))}, which is not sent: leave it out"
    try:
        content.encode()
    except UnicodeEncodeError as error:
        return f"its content is not valid Unicode ({error.reason})"
    return None


def _error(name: str, problem: str) -> RowError:
    return RowError(ErrorType.RENDER_ERROR, f"column {name!r} {problem}")
