from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from airflow_mullama.errors import ConfigurationError, ModelMismatchError, ModelNotFoundError, ModelUnreadableError
from airflow_mullama.models import resolve
from airflow_mullama.models.content_hash import file_sha256
from airflow_mullama.models.resolve import model_without_file, resolve_model

EMPTY_MODEL = b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + b"\0" * 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIRFLOW_MULLAMA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(EMPTY_MODEL)
    return path


def test_a_path_is_found_checked_and_hashed(model: Path) -> None:
    for name in (str(model), f"file://{model}"):
        found = resolve_model(name)
        assert found.name == name
        assert found.path == str(model)
        assert found.sha256 == hashlib.sha256(EMPTY_MODEL).hexdigest()


def test_a_name_without_a_file_has_a_hash_of_its_own() -> None:
    assert model_without_file("echo").sha256 == hashlib.sha256(b"echo").hexdigest()


def test_a_missing_model_and_a_directory_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"missing\.gguf' does not exist: give a GGUF file's path"):
        resolve_model(str(tmp_path / "missing.gguf"))
    with pytest.raises(ModelNotFoundError, match="is a directory"):
        resolve_model(str(tmp_path))


def test_a_file_that_is_no_model_is_refused(model: Path) -> None:
    model.write_bytes(b"<html>404 not found, and so on and on</html>")
    with pytest.raises(ModelUnreadableError, match="begins with b'<htm'"):
        resolve_model(str(model))


def test_an_unknown_demo_model_is_named_with_those_there_are() -> None:
    with pytest.raises(
        ModelNotFoundError, match="no demo model 'demo:gpt'; there are demo:adder, demo:minilm, demo:ticket-tagger"
    ):
        resolve_model("demo:gpt")


@pytest.mark.parametrize("name", ["hf://owner", "hf://owner/repo", "hf://owner/repo/", "hf:///repo/file.gguf"])
def test_a_hub_name_that_is_not_whole_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="not of the form hf://owner/repo/file"):
        resolve_model(name)


def test_a_hash_is_remembered_until_the_file_changes(model: Path, cache: Path) -> None:
    first = file_sha256(model)
    (entry,) = (cache / "sha256").iterdir()
    entry.write_text('{"sha256": "remembered"}')
    assert file_sha256(model) == "remembered"
    model.write_bytes(EMPTY_MODEL + b"x")
    os.utime(model, ns=(1, 1))
    assert file_sha256(model) == hashlib.sha256(EMPTY_MODEL + b"x").hexdigest() != first


def test_a_damaged_memory_of_hashes_is_passed_over(model: Path, cache: Path) -> None:
    first = file_sha256(model)
    for content in ("", "[]", '{"other": 1}', "\x00"):
        for entry in (cache / "sha256").iterdir():
            entry.write_text(content)
        assert file_sha256(model) == first


def test_a_cache_that_cannot_be_written_costs_only_time(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("AIRFLOW_MULLAMA_CACHE", str(tmp_path / "file" / "cache"))
    assert file_sha256(model) == hashlib.sha256(EMPTY_MODEL).hexdigest()


def test_a_model_on_an_object_store_is_copied_once_for_each_state_of_it(object_store: Any, cache: Path) -> None:
    url = object_store.url("models", "tiny.gguf")

    def store(content: bytes) -> None:
        with object_store.filesystem.open_output_stream(url.removeprefix("s3://")) as stream:
            stream.write(content)

    store(EMPTY_MODEL)
    first = resolve_model(url, object_store.resolve)
    assert Path(first.path).is_relative_to(cache)
    assert Path(first.path).name == "tiny.gguf"
    assert first.sha256 == hashlib.sha256(EMPTY_MODEL).hexdigest()
    copied = Path(first.path).stat().st_ino
    assert resolve_model(url, object_store.resolve) == first
    assert Path(first.path).stat().st_ino == copied
    store(EMPTY_MODEL + b"y")
    assert resolve_model(url, object_store.resolve).sha256 == hashlib.sha256(EMPTY_MODEL + b"y").hexdigest()
    assert {path.name for path in (cache / "models").rglob("*") if path.suffix == ".gguf"} == {"tiny.gguf"}


def test_a_model_that_is_not_on_the_object_store_is_named(object_store: Any) -> None:
    url = object_store.url("models", "missing.gguf")
    with pytest.raises(ModelNotFoundError, match=f"no object at '{url}'"):
        resolve_model(url, object_store.resolve)


def test_the_content_that_was_meant_is_taken(model: Path) -> None:
    sha256 = hashlib.sha256(EMPTY_MODEL).hexdigest()
    assert resolve_model(str(model), sha256=sha256).sha256 == sha256


def test_any_other_is_refused_before_anything_parses_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(path: Path) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(resolve, "read_gguf_header", parse)
    model.write_bytes(EMPTY_MODEL + b"more")
    meant = hashlib.sha256(EMPTY_MODEL).hexdigest()
    with pytest.raises(ModelMismatchError, match=f"and model_sha256 says {meant}: it is not the file that was meant"):
        resolve_model(str(model), sha256=meant)


def test_of_a_split_model_it_is_that_of_its_parts_hashes(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-{number:05d}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        part.write_bytes(EMPTY_MODEL)
    hashes = hashlib.sha256(EMPTY_MODEL).hexdigest() * 2
    found = resolve_model(str(parts[0]))
    assert found.sha256 == hashlib.sha256(hashes.encode()).hexdigest()
    assert resolve_model(str(parts[0]), sha256=found.sha256).sha256 == found.sha256
    parts[1].unlink()
    with pytest.raises(ModelNotFoundError, match=r"lacks the part .*00002-of-00002"):
        resolve_model(str(parts[0]), sha256=found.sha256)


def test_content_that_was_put_back_in_place_with_its_old_times_is_hashed_again(model: Path) -> None:
    status = model.stat()
    file_sha256(model)
    changed = EMPTY_MODEL[:-1] + b"x"
    model.write_bytes(changed)
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_sha256(model) == hashlib.sha256(changed).hexdigest()
