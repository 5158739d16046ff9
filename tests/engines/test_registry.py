from __future__ import annotations

import pytest

from airflow_mullama.engines.registry import AUTO_ORDER, ENGINE_MODULES, engine_names, engine_spec, load_spec
from airflow_mullama.errors import ConfigurationError


def test_auto_means_echo_for_its_model() -> None:
    assert engine_spec("auto", "echo").name == "echo"


def test_auto_never_means_echo_for_a_real_model() -> None:
    assert "echo" not in AUTO_ORDER
    assert set(AUTO_ORDER) <= set(ENGINE_MODULES)


@pytest.mark.parametrize("name", sorted(ENGINE_MODULES))
def test_every_engine_is_described_under_its_own_name(name: str) -> None:
    spec = load_spec(name)
    assert spec.name == name
    assert spec.output_options <= spec.checks.keys()
    assert name in engine_names()


def test_an_unknown_engine_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"engine is 'vllm'; it must be 'auto' or one of .*llamacpp.*echo"):
        engine_spec("vllm", "model.gguf")


@pytest.mark.parametrize(("engine", "model"), [("echo", "model.gguf"), ("llamacpp", "echo")])
def test_the_echo_model_and_engine_go_together(engine: str, model: str) -> None:
    with pytest.raises(ConfigurationError, match=f"engine='{engine}' and model='{model}' do not go together"):
        engine_spec(engine, model)
