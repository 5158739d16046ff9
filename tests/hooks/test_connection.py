"""What a connection says, without Airflow: any object with a connection's attributes will do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.hooks.connection import ConnectionDefaults, read_connection


def connection(extra: dict[str, Any] | None = None, **attributes: Any) -> SimpleNamespace:
    defaults: dict[str, Any] = {"host": None, "port": None, "schema": None, "password": None}
    return SimpleNamespace(conn_id="gpu_box", extra_dejson=extra or {}, **{**defaults, **attributes})


def test_an_empty_connection_says_nothing() -> None:
    assert read_connection(connection()) == ConnectionDefaults()
    assert read_connection(connection({"model": "", "n_ctx": None, "engine_options": None})) == ConnectionDefaults()


def test_fields_that_the_engine_does_not_know_are_left_out() -> None:
    defaults = read_connection(connection({"n_ctx": 512, "n_gpu_layers": "-1", "engine_options": {"flash_attn": True}}))
    assert defaults.options_for("llamacpp", {"n_ctx", "n_gpu_layers"}) == {
        "n_ctx": 512,
        "n_gpu_layers": -1,
        "flash_attn": True,
    }
    assert defaults.options_for("echo", {"n_ctx"}) == {"n_ctx": 512, "flash_attn": True}


@pytest.mark.parametrize(
    ("extra", "attributes", "endpoint"),
    [
        ({"endpoint": "http://gpu-box:8000/v1"}, {}, "http://gpu-box:8000/v1"),
        ({"endpoint": "http://gpu-box:8000/v1"}, {"host": "elsewhere"}, "http://gpu-box:8000/v1"),
        ({}, {"host": "gpu-box"}, "http://gpu-box"),
        ({}, {"host": "gpu-box", "port": 8000, "schema": "https"}, "https://gpu-box:8000"),
        ({}, {"host": "https://gpu-box/", "port": 8000}, "https://gpu-box:8000"),
        ({"endpoint": "/v1"}, {"host": "gpu-box", "port": 8000}, "http://gpu-box:8000/v1"),
        ({}, {}, None),
    ],
)
def test_an_endpoint_is_a_field_or_made_of_host_port_and_schema(
    extra: dict[str, Any], attributes: dict[str, Any], endpoint: str | None
) -> None:
    defaults = read_connection(connection(extra, **attributes))
    assert defaults.endpoint == endpoint


def test_endpoint_and_key_go_to_the_one_engine_that_takes_them() -> None:
    defaults = read_connection(connection({"endpoint": "http://gpu-box/v1"}, password="sk-secret"))
    assert defaults.options_for("openai", {"n_ctx"}) == {"endpoint": "http://gpu-box/v1", "api_key": "sk-secret"}
    assert defaults.options_for("llamacpp", {"n_ctx"}) == {}


def test_a_key_is_not_part_of_the_text_of_what_was_read() -> None:
    defaults = read_connection(connection(password="sk-secret"))
    assert "sk-secret" not in repr(defaults)
    among_options = read_connection(connection({"engine_options": {"api_key": "sk-other"}}))
    assert "sk-other" not in repr(among_options)


def test_white_space_around_a_key_is_not_part_of_it() -> None:
    defaults = read_connection(connection({"engine_options": {"api_key": "\tsk-other\r\n"}}, password=" sk-secret\n"))
    assert defaults.api_key == "sk-secret"
    assert defaults.engine_options == {"api_key": "sk-other"}
    assert read_connection(connection(password=" \n")).api_key is None


@pytest.mark.parametrize("key", ["sk-secret\nX-Header: 1", "sk-secret\u2013", "sk secret", "sk-secret\x00"])
def test_what_http_refuses_as_a_key_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigurationError, match="'API key' of the connection 'gpu_box' is not a key") as caught:
        read_connection(connection(password=key))
    with pytest.raises(ConfigurationError, match=r"\['api_key'\] of the connection 'gpu_box' is not a key") as other:
        read_connection(connection({"engine_options": {"api_key": key}}))
    for error in (caught, other):
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("extra", "attributes", "sentence"),
    [
        ({"engine_options": [1]}, {}, "has a list for engine_options in its extra; it must be an object"),
        ({"n_ctx": "many"}, {}, "n_ctx 'many'; it must be a whole number"),
        ({"n_ctx": True}, {}, "n_ctx True; it must be a whole number"),
        ({"model": 7}, {}, "model 7; it must be a text"),
        ({"n_ctx": 1, "engine_options": {"n_ctx": 2}}, {}, "gives n_ctx as a field (1) and in engine_options (2)"),
        ({"endpoint": "gpu-box:8000"}, {}, "is 'gpu-box:8000'; it must be like http"),
        ({"endpoint": "ftp://gpu-box"}, {}, "is 'ftp://gpu-box'; it must be like http"),
    ],
)
def test_a_wrong_field_is_one_sentence(extra: dict[str, Any], attributes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_connection(connection(extra, **attributes))
    assert "he connection 'gpu_box' " in str(caught.value)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://me:hunter2@gpu-box/v1", "me:hunter2@gpu-box", "http://gpu-box/v1?api-key=hunter2",
        "http://gpu-box/v1#hunter2", "http://[hunter2@gpu-box",
    ],
)  # fmt: skip
def test_a_secret_inside_the_endpoint_is_refused_and_not_repeated(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="endpoint of the connection 'gpu_box'") as caught:
        read_connection(connection({"endpoint": endpoint}))
    assert "hunter2" not in str(caught.value)


def test_options_that_cannot_be_read_are_not_repeated_as_they_may_hold_a_key() -> None:
    with pytest.raises(ConfigurationError, match="has a str for engine_options") as caught:
        read_connection(connection({"engine_options": '{"api_key": "sk-secret"}'}))
    assert "sk-secret" not in str(caught.value)
