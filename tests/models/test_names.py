from __future__ import annotations

from pathlib import Path

import pytest

from airflow_mullama.models.names import may_be_folder, may_be_gguf


@pytest.mark.parametrize(
    "name",
    ["BAAI/bge-small-en-v1.5", "BAAI/bge-m3@refs/pr/7", "hf://BAAI/bge-m3", "hf://a/b@main", "s3://models/bge/"],
)
def test_names_of_folders(name: str) -> None:
    assert may_be_folder(name)
    assert not may_be_gguf(name)


@pytest.mark.parametrize(
    "name",
    [
        "m",
        "m.gguf",
        "models/m.gguf",
        "/models/m",
        "a/b/c",
        "hf://a/b/m.gguf",
        "s3://models/m.gguf",
        "demo:ticket-tagger",
    ],
)
def test_names_of_files(name: str) -> None:
    assert may_be_gguf(name)
    assert not may_be_folder(name)


def test_what_is_there_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/folder").mkdir(parents=True)
    (tmp_path / "models/file").touch()
    assert may_be_folder("models/folder")
    assert may_be_folder(f"file://{tmp_path}/models/folder")
    assert may_be_gguf("models/file")
    assert may_be_folder("models/neither")  # a repository on the Hub


def test_the_demos_embedding_model_is_both() -> None:
    assert may_be_folder("demo:minilm")
    assert may_be_gguf("demo:minilm")
