from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama.errors import UnsupportedColumnError
from airflow_mullama.jobs.messages import message_lists, refuse_no_messages
from airflow_mullama.rows import ErrorType, RowError

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
GOOD = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello {x}"}]
READ = [("system", "Be kind."), ("user", "Hello {x}")]


@pytest.mark.parametrize(
    "kind",
    [pa.list_(MESSAGE), pa.large_list(MESSAGE), pa.list_(pa.struct([*MESSAGE, ("name", pa.string())]))],
)
def test_lists_of_structs_are_messages(kind: pa.DataType) -> None:
    refuse_no_messages(pa.field("chat", kind))
    assert message_lists(pa.array([GOOD], kind), "chat") == [READ]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_so_is_the_same_as_json_text(kind: pa.DataType) -> None:
    refuse_no_messages(pa.field("chat", kind))
    assert message_lists(pa.array([json.dumps(GOOD)], pa.string()).cast(kind), "chat") == [READ]


@pytest.mark.parametrize(
    "kind",
    [
        pa.int64(),
        pa.binary(),
        pa.list_(pa.string()),
        pa.map_(pa.string(), pa.string()),
        MESSAGE,
        pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())])),
    ],
)
def test_a_column_of_another_type_is_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(
        UnsupportedColumnError, match=r"The column 'chat' of 'in.parquet' is of the type .*role: string"
    ):
        refuse_no_messages(pa.field("chat", kind), "in.parquet")


def user(**more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "x", **more}]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "holds an empty list: there is nothing to ask"),
        ({"role": "user"}, "is not a list of messages"),
        (["hello"], "number 1 of 1: it is no object with role and content"),
        (user(role="tool"), "number 1 of 1: its role is 'tool', and it must be system, user or assistant"),
        (user(role=None), "its role is None"),
        (user(role=["user"]), r"its role is \['user'\]"),
        ([*GOOD, {"role": "user"}], "number 3 of 3: it has no content"),
        (user(content=[{"type": "text", "text": "x"}]), r"its content is no text \(list\)"),
        (user(tool_calls=[1]), "it has 'tool_calls', which is not sent: leave it out"),
        (user(content="\ud800"), "its content is not valid Unicode"),
        (
            [{"role": "assistant", "content": "x"}],
            "ends with a message of the assistant: the last one must be the user's",
        ),
    ],
)
def test_what_cannot_be_sent_is_that_rows_error(value: Any, sentence: str) -> None:
    error, read = message_lists(pa.array([json.dumps(value), json.dumps(user(name=None))]), "chat")
    assert isinstance(error, RowError)
    assert error.error_type is ErrorType.RENDER_ERROR
    assert error.message.startswith("column 'chat' ")
    assert re.search(sentence, error.message)
    assert read == [("user", "x")]


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000])
def test_what_is_no_json_is_that_rows_error(text: str) -> None:
    (error,) = message_lists(pa.array([text]), "chat")
    assert isinstance(error, RowError)
    assert "column 'chat' is not JSON" in error.message


def test_bytes_that_are_no_text_are_that_rows_error() -> None:
    broken = pa.array([b"\xff"], pa.binary()).view(pa.string())
    column = pa.ListArray.from_arrays(
        [0, 1], pa.StructArray.from_arrays([pa.array(["user"]), broken], fields=[*MESSAGE])
    )
    (error,) = message_lists(column, "chat")
    assert isinstance(error, RowError)
    assert "holds bytes that are not UTF-8" in error.message


def test_a_null_is_skipped() -> None:
    (error,) = message_lists(pa.array([None], pa.list_(MESSAGE)), "chat")
    assert isinstance(error, RowError)
    assert error.error_type is ErrorType.NULL_INPUT
