from __future__ import annotations

from pathlib import Path

import pytest

from airflow_mullama.engines.registry import (
    AUTO_ORDER,
    ENGINE_MODULES,
    EngineSpec,
    engine_names,
    engine_spec,
    load_spec,
)
from airflow_mullama.errors import ConfigurationError, EngineNotAvailableError


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


def test_a_mere_folder_of_the_bindings_name_is_not_taken_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mullama").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not load_spec("mullama").available


@pytest.mark.parametrize("model", ["BAAI/bge-small-en-v1.5", "s3://models/bge/"])
def test_auto_picks_by_what_the_model_is(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = EngineSpec.available.fget
    monkeypatch.setattr(
        EngineSpec, "available", property(lambda spec: spec.name == "sentence_transformers" or installed(spec))
    )
    for name in (model, str(tmp_path), "demo:minilm"):
        assert engine_spec("auto", name).name == "sentence_transformers"
    for name in ("m.gguf", "hf://owner/repo/m.gguf", "demo:ticket-tagger"):
        assert engine_spec("auto", name).name == "llamacpp"


def test_auto_without_the_engine_for_a_folder_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = EngineSpec.available.fget
    monkeypatch.setattr(
        EngineSpec, "available", property(lambda spec: spec.name != "sentence_transformers" and installed(spec))
    )
    with pytest.raises(EngineNotAvailableError, match=r"\[sentence-transformers\]'\. It only embeds; to write text"):
        engine_spec("auto", str(tmp_path))
    assert engine_spec("auto", "demo:minilm").name == "llamacpp"
