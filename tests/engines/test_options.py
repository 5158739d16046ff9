from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from airflow_mullama.arguments import Check, Number, OfType, OneOf, Whole
from airflow_mullama.engines.options import validate_options
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.redaction.credentials import Secret


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (Whole(-1, 10), [-1, 0, 10], [-2, 11, 1.0, True, "1", None]),
        (Number(0.0, 1.0), [0, 1, 0.5], [-0.1, 1.1, float("nan"), True, "0.5", None]),
        (OneOf(("f16", True, None)), ["f16", True, None], ["f32", 1, False, 0]),
        (OfType(str, "a text"), ["", "x"], [1, None, b"x"]),
    ],
)
def test_a_check_accepts_what_it_says_and_nothing_else(check: Check, good: list[Any], bad: list[Any]) -> None:
    assert all(check.accepts(value) for value in good)
    assert not any(check.accepts(value) for value in bad)


def test_a_refusal_names_option_value_and_what_it_may_be() -> None:
    checks = {"n_ctx": Whole(1, 10), "cache": OneOf(("f16", "q8_0"))}
    with pytest.raises(
        ConfigurationError, match=r"^engine_options\['n_ctx'\] is 11; it must be a whole number from 1 to 10\.$"
    ):
        validate_options("echo", checks, {"n_ctx": 11})
    with pytest.raises(ConfigurationError, match=r"'cache'\] is 'f8'; it must be one of 'f16', 'q8_0'\."):
        validate_options("echo", checks, {"cache": "f8"})


def test_an_unknown_option_is_named_with_those_there_are() -> None:
    with pytest.raises(
        ConfigurationError, match=r"has 'nctx', which the engine 'echo' does not know; it knows: a, b\."
    ):
        validate_options("echo", {"b": Whole(0, 1), "a": Whole(0, 1)}, {"nctx": 1})


def test_a_secret_does_not_show_and_is_what_it_is() -> None:
    options = {"key": Secret("hunter2")}
    for shown in (options, copy.deepcopy(options), pickle.loads(pickle.dumps(options))):
        assert repr(shown) == "{'key': '***'}"
    assert json.dumps(options) == '{"key": "hunter2"}'
    assert options["key"] == "hunter2"
