"""The hook inside real Airflow: what wins over what, and what a connection test says."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

MakeHook = Callable[..., Any]


@pytest.fixture
def hook(airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> MakeHook:
    """The hook of a connection that Airflow finds."""

    def make(extra: dict[str, Any] | None = None, **attributes: Any) -> Any:
        from airflow_mullama.hooks.mullama import MullamaHook

        connection = {"conn_type": "mullama", "extra": extra or {}, **attributes}
        monkeypatch.setenv("AIRFLOW_CONN_GPU_BOX", json.dumps(connection))
        return MullamaHook("gpu_box")

    return make


def test_an_argument_wins_over_the_connection_and_that_over_the_configuration(
    hook: MakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__MULLAMA__DEFAULT_MODEL", "of-the-configuration.gguf")
    monkeypatch.setenv("AIRFLOW__MULLAMA__DEFAULT_ENGINE", "llamacpp")
    empty = hook()
    assert empty.engine_arguments() == {
        "model": "of-the-configuration.gguf",
        "model_sha256": None,
        "engine": "llamacpp",
        "engine_options": {},
    }
    assert empty.engine_arguments("argument.gguf", "auto")["model"] == "argument.gguf"
    full = hook({"model": "of-the-connection.gguf", "n_ctx": 512, "n_parallel": 2, "engine_options": {"n_batch": 64}})
    assert full.engine_arguments()["model"] == "of-the-connection.gguf"
    assert full.engine_arguments(engine_options={"n_ctx": 1024})["engine_options"] == {
        "n_ctx": 1024,
        "n_parallel": 2,
        "n_batch": 64,
    }


def test_another_engine_gets_only_the_fields_it_knows(hook: MakeHook) -> None:
    box = hook({"model": "m.gguf", "n_gpu_layers": 20, "n_ctx": 512})
    assert box.engine_arguments("echo")["engine_options"] == {"n_ctx": 512}
    assert box.engine_arguments()["engine_options"] == {"n_gpu_layers": 20, "n_ctx": 512}


def test_endpoint_and_key_reach_the_engine_that_takes_them(hook: MakeHook) -> None:
    from airflow_mullama.engines.registry import ENGINE_MODULES

    if "openai" not in ENGINE_MODULES:
        pytest.skip("there is no engine openai")
    box = hook({"model": "qwen", "engine": "openai", "n_ctx": 512}, host="gpu-box", port=8000, password="sk-of-a-box")
    options = {"endpoint": "http://gpu-box:8000", "api_key": "sk-of-a-box"}
    assert box.engine_arguments() == {
        "model": "qwen",
        "model_sha256": None,
        "engine": "openai",
        "engine_options": options,
    }
    assert box.engine_arguments("m.gguf", "llamacpp")["engine_options"] == {"n_ctx": 512}


def test_a_connections_sha256_goes_with_its_own_model(hook: MakeHook) -> None:
    box = hook({"model": "m.gguf", "model_sha256": "0" * 64})
    assert box.engine_arguments()["model_sha256"] == "0" * 64
    assert box.engine_arguments("m.gguf")["model_sha256"] == "0" * 64
    assert box.engine_arguments("other.gguf")["model_sha256"] is None
    assert box.engine_arguments("other.gguf", model_sha256="1" * 64)["model_sha256"] == "1" * 64
    assert box.engine_arguments("echo")["model_sha256"] is None


def test_the_connection_test_refuses_another_file(hook: MakeHook, started_workers: Any) -> None:
    works, said = hook({"model": "demo:ticket-tagger", "model_sha256": "0" * 64}).test_connection()
    assert not works
    assert "it is not the file that was meant" in said
    assert len(started_workers) == 0


def test_a_key_among_an_operators_options_is_masked_too(hook: MakeHook) -> None:
    from airflow.sdk.log import redact

    hook({"model": "echo"}).engine_arguments(engine_options={"api_key": "sk-of-an-operator"})
    assert redact("Authorization: sk-of-an-operator") == "Authorization: ***"
    hook({"model": "echo", "engine_options": {"headers": {"api-key": "key-of-a-header"}}}).defaults()
    assert redact("came with key-of-a-header") == "came with ***"


def test_so_is_every_spelling_of_a_key_and_one_of_the_environment(
    hook: MakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.log import redact

    monkeypatch.setenv("KEY_OF_THE_BOX", "sk-of/an+environment\n")
    box = hook({"model": "m", "engine": "openai", "engine_options": {"api_key_env": "KEY_OF_THE_BOX"}}, host="gpu-box")
    box.engine_arguments()
    packed = base64.b64encode(b"sk-of/an+environment").decode()
    said = f"sk-of/an+environment sk-of\\/an+environment sk-of%2Fan%2Benvironment {packed}"
    assert redact(said) == "*** *** *** ***"


@pytest.mark.parametrize("key", ["sk-with-a-newline\nX: y", "sk-with-a-dash\u2013"])
def test_a_key_that_http_refuses_is_not_shown_by_the_connection_test(hook: MakeHook, key: str) -> None:
    box = hook({"model": "m", "engine": "openai"}, host="gpu-box", password=key)
    works, said = box.test_connection()
    assert not works
    assert "is not a key (it is not shown here)" in said
    assert "sk-with" not in said


def test_engine_options_that_are_no_dictionary(hook: MakeHook) -> None:
    from airflow_mullama.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match=r"engine_options must be a dictionary .*, not \['n_ctx'\]"):
        hook({"model": "echo"}).engine_arguments(engine_options=["n_ctx"])


@pytest.mark.parametrize(
    ("connection", "sentence"),
    [
        ({"extra": {"model": "/no/such.gguf"}}, "The model '/no/such.gguf' does not exist"),
        ({"extra": {"model": "echo", "n_ctx": "many"}}, "n_ctx 'many'; it must be a whole number"),
        ({"extra": {"model": "echo", "n_ctx": 0}}, "engine_options['n_ctx'] is 0; it must be"),
        ({"extra": {"model": "echo", "engine": "magic"}}, "engine is 'magic'; it must be"),
        ({}, "No model: give model=, set it in the connection 'gpu_box'"),
        ({"extra": {"engine": "openai"}, "password": "sk-1234567"}, "The connection has no endpoint"),
    ],
)
def test_a_connection_that_does_not_work(hook: MakeHook, connection: dict[str, Any], sentence: str) -> None:
    works, said = hook(**connection).test_connection()
    assert not works
    assert sentence in said
    assert "sk-1234567" not in said


def test_a_connection_that_works(hook: MakeHook, started_workers: Any, no_worker_left: None) -> None:
    works, said = hook({"model": "echo", "n_parallel": 3}).test_connection()
    assert works, said
    assert "loaded 'echo'" in said
    assert "3 rows at once" in said
    assert len(started_workers) == 1
