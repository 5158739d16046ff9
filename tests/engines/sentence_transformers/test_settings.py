"""Devices and what follows from them. PyTorch is a stand-in here: no test machine has every device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.engines.sentence_transformers.settings import TorchSettings, choose_settings, variables
from airflow_mullama.errors import ConfigurationError, GpuNotAvailableError


def torch(gpus: int = 0, *, mps: bool = False) -> Any:
    def devices(count: int) -> Any:
        return SimpleNamespace(
            is_available=lambda: count > 0, device_count=lambda: count, get_device_name=lambda number: f"GPU {number}"
        )

    backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps))
    return SimpleNamespace(cuda=devices(gpus), xpu=devices(0), backends=backends, __version__="2.0")


def choose(torch: Any, stored: str | None = None, *, require_gpu: bool = False, **options: Any) -> TorchSettings:
    settings = EngineSettings(task="embed", model="m", options=options, settings={}, require_gpu=require_gpu)
    return choose_settings(settings, torch, stored)


def test_the_gpu_is_taken_where_there_is_one_with_half_precision() -> None:
    chosen = choose(torch(2))
    assert (chosen.device, chosen.device_words, chosen.dtype) == ("cuda", "cuda (GPU 0)", "float16")
    assert choose(torch(1), "bfloat16").dtype == "bfloat16"
    assert choose(torch(1), dtype="float32").dtype == "float32"
    assert choose(torch(2), device="cuda:1").device_words == "cuda:1 (GPU 1)"
    assert choose(torch(0, mps=True)).device == "mps"
    assert chosen.batch_tokens > choose(torch(0)).batch_tokens


def test_the_cpu_computes_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    chosen = choose(torch(0), "float16", n_threads=2)
    assert (chosen.device, chosen.dtype, chosen.n_threads, chosen.batch_tokens) == ("cpu", "float32", 2, 2048)
    assert chosen.words == "torch, float32, 2 threads, up to 2048 tokens a call"
    assert chosen.notes == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert "sees no GPU" in choose(torch(0)).notes[0]


def test_a_gpu_that_must_be_there_and_is_not_is_told_of() -> None:
    with pytest.raises(GpuNotAvailableError, match=r"require_gpu=True, and PyTorch 2\.0 sees no GPU"):
        choose(torch(0), require_gpu=True)
    with pytest.raises(GpuNotAvailableError, match="'device'] is 'cpu'"):
        choose(torch(1), require_gpu=True, device="cpu")


@pytest.mark.parametrize("device", ["cuda:2", "tpu", "mps"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(device: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"'device'] is '{device}', and PyTorch 2.0 sees here: cuda, cuda:0, cuda:1, cpu"
    ):
        choose(torch(2), device=device)


def test_the_hubs_variables_are_seen_only_by_a_model_with_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_TOKEN", "PYTORCH_ALLOC_CONF"):
        monkeypatch.setenv(name, "x")
    assert "PYTORCH_ALLOC_CONF" in variables({})
    assert "HF_HOME" not in variables({})
    assert "HF_HOME" in variables({"trust_remote_code": True})
    assert "HF_TOKEN" not in variables({"trust_remote_code": True})
