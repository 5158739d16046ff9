"""What a folder says of itself, and what is refused of it before anything loads it. Nothing here needs PyTorch."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_folder import WIDTH, write_folder, write_json, write_plain_folder, write_static_folder

from airflow_mullama import EmbedJob, GenerateJob
from airflow_mullama.engines.sentence_transformers.model_checks import check_model, vector_length
from airflow_mullama.engines.sentence_transformers.model_folder import read_model_folder
from airflow_mullama.errors import ConfigurationError, DependencyMissingError, ModelUnreadableError
from airflow_mullama.models.gguf_header import GgufHeader
from airflow_mullama.models.resolve import Model


def model(folder: Path) -> Model:
    return Model(folder.name, str(folder), "", GgufHeader())


def check(folder: Path, options: dict[str, Any] | None = None, **settings: Any) -> None:
    check_model("embed", {"pooling": None, "dimensions": None, **settings}, options or {}, model(folder))


def test_vectors_are_as_long_as_the_last_module_that_says_so(tmp_path: Path) -> None:
    assert vector_length({}, model(write_folder(tmp_path / "a"))) == WIDTH
    assert vector_length({}, model(write_folder(tmp_path / "b", dense=12))) == 12
    assert vector_length({}, model(write_static_folder(tmp_path / "c", 16))) == 16
    assert vector_length({}, model(write_plain_folder(tmp_path / "d"))) == WIDTH
    assert vector_length({}, model(write_folder(tmp_path / "e", settings={"truncate_dim": 8}))) == 8
    both = write_folder(tmp_path / "f")
    write_json(both / "1_Pooling/config.json", {"embedding_dimension": WIDTH, "pooling_mode": ["mean", "max"]})
    assert vector_length({}, model(both)) == 2 * WIDTH


def test_sound_models_pass(tmp_path: Path) -> None:
    check(write_folder(tmp_path / "a", dense=12), dimensions=12)
    check(write_folder(tmp_path / "b"), pooling="mean")
    check(write_plain_folder(tmp_path / "c"), pooling="last")
    check(write_static_folder(tmp_path / "d"))


def test_a_model_that_does_not_say_how_it_pools_must_be_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not say how its token vectors become one"):
        check(write_plain_folder(tmp_path / "plain"))
    with pytest.raises(ConfigurationError, match=re.escape("says how it pools (mean); leave it out")):
        check(write_folder(tmp_path / "told"), pooling="cls")


def test_pickled_weights_are_refused_wherever_they_are(tmp_path: Path) -> None:
    for name, module in (("whole", "."), ("dense", "2_Dense")):
        folder = write_folder(tmp_path / name, dense=8)
        (folder / module / "model.safetensors").rename(folder / module / "pytorch_model.bin")
        with pytest.raises(ConfigurationError, match=r"pytorch_model\.bin, a pickle: a program that runs when it is"):
            check(folder)
        (folder / module / "pytorch_model.bin").unlink()
        with pytest.raises(ModelUnreadableError, match="lacks the weights of its module"):
            check(folder)


def test_code_that_a_model_brings_is_refused_unless_it_is_trusted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "custom.Encoder"
    write_json(folder / "modules.json", modules)
    with pytest.raises(ConfigurationError, match=r"brings code of its own \(custom.Encoder\)"):
        check(folder)
    check(folder, {"trust_remote_code": True})


@pytest.mark.parametrize("kind", ["CrossEncoder", "SparseEncoder", "MultiVectorEncoder"])
def test_models_that_give_no_vector_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigurationError, match=f"is a {kind}, which gives no single vector"):
        check(write_folder(tmp_path / "m", settings={"model_type": kind}))


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    write_json(folder / "adapter_config.json", {})
    with pytest.raises(ConfigurationError, match="is an adapter"):
        check(folder)


def test_modules_that_are_not_known_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    kind = "sentence_transformers.models.Router"
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": kind}])
    with pytest.raises(ConfigurationError, match="as its first module Router"):
        check(folder)


def test_a_folder_that_holds_no_model_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadableError, match=r"holds neither modules\.json nor config\.json; give the folder"):
        check(tmp_path)
    (tmp_path / "m.gguf").touch()
    with pytest.raises(
        ModelUnreadableError, match=re.escape(f"holds GGUF files: give the path of one, such as {tmp_path}/m.gguf")
    ):
        check(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '[{"path": ""}]', "[1]", '{"a": 1}'])
def test_a_list_of_modules_that_is_none_is_told_of(tmp_path: Path, content: str) -> None:
    write_folder(tmp_path)
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ModelUnreadableError, match=r"modules\.json"):
        check(tmp_path)


def test_a_module_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = "../1_Pooling"
    write_json(folder / "modules.json", modules)
    with pytest.raises(ModelUnreadableError, match="outside of its folder"):
        check(folder)


def test_more_dimensions_than_there_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"dimensions is 33 and the vectors of 'm' have {WIDTH} numbers"):
        check(write_folder(tmp_path / "m"), dimensions=33)


def test_prompts_are_named_or_given(tmp_path: Path) -> None:
    settings = {"prompts": {"query": "query: ", "document": "", "none": None}, "default_prompt_name": "query"}
    folder = write_folder(tmp_path / "m", settings=settings)
    about = read_model_folder(str(folder))
    assert about.prompt({}) == "query: "
    assert about.prompt({"prompt_name": "document"}) == ""
    assert about.prompt({"prompt": ""}) == ""
    check(folder, {"prompt_name": "query"})
    with pytest.raises(
        ConfigurationError, match="'prompt_name'] is 'passage', and the prompts of 'm' are: 'document', 'query'"
    ):
        check(folder, {"prompt_name": "passage"})
    with pytest.raises(ConfigurationError, match="not both"):
        check(folder, {"prompt_name": "query", "prompt": "q: "})


def test_it_writes_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="embeds and writes no text"):
        check_model("generate", {}, {}, model(write_folder(tmp_path / "m")))
    GenerateJob(model=str(tmp_path / "m"), engine="sentence_transformers", prompt_column="text")  # told before the run


def test_a_backend_that_is_not_installed_is_named(tmp_path: Path) -> None:
    if importlib.util.find_spec("openvino") is not None:
        pytest.skip("openvino is installed")
    with pytest.raises(DependencyMissingError, match=re.escape("pip install 'sentence-transformers[openvino]'")):
        check(write_folder(tmp_path / "m"), {"backend": "openvino"})


@pytest.mark.parametrize(
    ("option", "value"),
    [("backend", "jax"), ("dtype", "float8"), ("batch_tokens", 0), ("trust_remote_code", "yes"), ("n_ctx", 512)],
)
def test_options_are_checked_before_the_run(option: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=option):
        EmbedJob(model="a/b", engine="sentence_transformers", text_column="text", engine_options={option: value})
