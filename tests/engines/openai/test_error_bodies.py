"""Errors in the bodies of answers that HTTP calls good."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.engines.openai.answers import row_error
from airflow_mullama.engines.openai.error_bodies import status_in_body
from airflow_mullama.engines.openai.http_client import Answer
from airflow_mullama.rows import ErrorType

CHOICE = {"message": {"content": "hi"}, "finish_reason": "stop"}


def status(value: Any) -> int | None:
    return status_in_body(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"error": {"code": 429, "message": "slow down"}}, 429),
        ({"error": {"code": "429", "message": "slow down"}}, 429),
        ({"error": {"code": None, "type": "rate_limit_error"}}, 429),
        ({"error": {"code": "RESOURCE_EXHAUSTED"}}, 429),
        ({"error": "Too Many Requests"}, 429),
        ({"error": {"code": "insufficient_quota"}}, 402),
        ({"error": {"type": "authentication_error"}}, 401),
        ({"error": {"type": "model_not_found"}}, 404),
        ({"error": {"type": "invalid_request_error", "message": "no"}}, 400),
        ({"error": {"type": "overloaded_error"}}, 503),
        ({"object": "error", "message": "no", "code": 400}, 400),
        ({"error": {"message": "something"}}, 500),
        ({"error": ["something"]}, 500),
        ({"error": True}, 500),
        ({"error": {"code": 200}}, 500),
        ({"error": {"code": 502}, "choices": [CHOICE]}, 502),
        ({"choices": [CHOICE | {"error": {"code": 502, "message": "gone"}}]}, 502),
    ],
)
def test_an_error_in_a_body_has_the_status_that_it_tells(value: Any, told: int) -> None:
    assert status(value) == told


@pytest.mark.parametrize(
    "value",
    [
        {"choices": [CHOICE]},
        {"choices": [CHOICE], "error": None},
        {"choices": [CHOICE | {"error": None}], "error": {}},
        {"choices": [{"message": {"content": '"error"'}}]},
        {"choices": [], "object": "chat.completion"},
        ["error"],
        "error",
    ],
)
def test_an_answer_without_an_error_tells_of_none(value: Any) -> None:
    assert status(value) is None


@given(st.binary(max_size=100) | st.text(max_size=40).map(lambda text: f'{{"error": {text}}}'.encode()))
def test_nothing_that_a_server_sends_raises(body: bytes) -> None:
    told = status_in_body(body)
    assert told is None or 400 <= told < 600


def test_its_words_are_quoted_and_it_is_said_that_http_called_it_good() -> None:
    body = json.dumps({"choices": [CHOICE | {"error": {"code": 402, "message": "no credit"}}]}).encode()
    error = row_error(Answer(402, body, told_in_body=True))
    assert error.error_type is ErrorType.HTTP_ERROR
    assert error.message == "the server answers 402 in an answer 200: no credit"
