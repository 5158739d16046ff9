from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_mullama import ClassifyJob, GenerateJob
from airflow_mullama.errors import ConfigurationError, MullamaError
from airflow_mullama.models.adapters import checked_lora, resolve_adapters
from airflow_mullama.models.content_hash import file_sha256
from airflow_mullama.models.resolve import Adapter, resolve_model
from airflow_mullama.run.prepare import prepare_model

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
from tiny_gguf import write_tiny_gguf
from tiny_lora import NAMES, write_tiny_lora


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


def test_an_adapter_is_found_and_hashed(tmp_path: Path, model: Path) -> None:
    path = write_tiny_lora(tmp_path / "lora.gguf")
    (adapter,) = resolve_adapters(checked_lora([{"path": str(path), "scale": 2}]), resolve_model(str(model)))
    assert adapter == Adapter(str(path), str(path), 2.0, file_sha256(path))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"architecture": "qwen3"},
            "is for models of the architecture 'qwen3', and '.*' has 'llama': take the adapter",
        ),
        ({"kind": "alora"}, "is an adapter of the type 'alora'; only 'lora' can be used"),
        ({"names": ("blk.7.attn_q.weight",)}, "changes the tensor 'blk.7.attn_q.weight', which '.*' does not have"),
        ({"width": 32}, "with matrices of 32 x 4 and 4 x 32, and in '.*' it has 64 x 64"),
        ({"rank_of_b": 3}, "with matrices of 64 x 4 and 3 x 64"),
        ({"without": f"{NAMES[0]}.lora_b"}, "is damaged: 'blk.0.attn_q.weight' lacks one of its two matrices"),
        ({"names": ()}, "has no matrices and would change nothing"),
    ],
)
def test_one_that_does_not_fit_is_refused_by_its_header(
    tmp_path: Path, model: Path, arguments: dict[str, Any], sentence: str
) -> None:
    path = write_tiny_lora(tmp_path / "lora.gguf", **arguments)
    job = GenerateJob(model=str(model), engine="llamacpp", prompt_column="text", lora=[{"path": str(path)}])
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        prepare_model(job)
    assert str(caught.value).startswith(f"lora[0] {str(path)!r} ")


def test_a_model_is_no_adapter_and_an_adapter_no_model(tmp_path: Path, model: Path) -> None:
    adapter = write_tiny_lora(tmp_path / "lora.gguf")
    with pytest.raises(ConfigurationError, match=r"lora\[0\] '.*' is no LoRA adapter but a model"):
        resolve_adapters([{"path": str(model), "scale": 1.0}], resolve_model(str(model)))
    with pytest.raises(ConfigurationError, match="is an adapter, which changes a model and is none"):
        prepare_model(GenerateJob(model=str(adapter), engine="llamacpp", prompt_column="text"))


def test_one_that_is_not_there_is_told_by_its_place(model: Path) -> None:
    with pytest.raises(MullamaError, match=r"lora\[0\]: The model '/no/lora.gguf' does not exist"):
        resolve_adapters([{"path": "/no/lora.gguf", "scale": 1.0}], resolve_model(str(model)))


@pytest.mark.parametrize(
    ("lora", "sentence"),
    [
        ([], "lora is []; it must be a list such as"),
        ("a.gguf", "lora is 'a.gguf'; it must be a list such as"),
        (["a.gguf"], "lora[0] is 'a.gguf'; it must be a dictionary with 'path' and 'scale'"),
        ([{"path": "a", "weight": 1}], "it must be a dictionary with 'path' and 'scale'"),
        ([{"scale": 1}], "it must be a dictionary with 'path' and 'scale'"),
        ([{"path": ""}], "lora[0]['path'] is ''"),
        ([{"path": "a", "scale": "much"}], "lora[0]['scale'] is 'much'; it must be a number from -100 to 100"),
    ],
)
def test_what_is_no_list_of_adapters_is_refused_with_the_job(lora: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        GenerateJob(model="m.gguf", engine="llamacpp", prompt_column="text", lora=lora)


def test_a_password_in_an_adapters_address_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="The adapter"):
        checked_lora([{"path": "s3://key:secret@bucket/lora.gguf"}])


@pytest.mark.parametrize(("engine", "model_name"), [("openai", "m"), ("mullama", "m.gguf"), ("echo", "echo")])
def test_an_engine_that_takes_none_refuses_them_by_name(engine: str, model_name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"lora is given, and the engine '{engine}' takes no adapters"):
        ClassifyJob(
            model=model_name,
            engine=engine,
            engine_options={"endpoint": "http://127.0.0.1:1"} if engine == "openai" else {},
            labels=["a", "b"],
            text_column="text",
            lora=[{"path": "a.gguf"}],
        )
