"""What a model's folder says of itself is believed as far as it makes sense."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from airflow_mullama.engines.sentence_transformers import model_folder
from airflow_mullama.engines.sentence_transformers.model_folder import read_model_folder
from airflow_mullama.errors import ModelUnreadableError

FILES: dict[str, Any] = {
    "modules.json": [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        {"path": "3_StaticEmbedding", "type": "sentence_transformers.models.StaticEmbedding"},
    ],
    "config.json": {"hidden_size": 8, "text_config": {"d_model": 8}},
    "config_sentence_transformers.json": {
        "prompts": {"query": "q: "},
        "default_prompt_name": "query",
        "truncate_dim": 4,
    },
    "1_Pooling/config.json": {"pooling_mode": ["mean", "cls"], "embedding_dimension": 8},
    "2_Dense/config.json": {"out_features": 8, "module_output_name": None},
    "3_StaticEmbedding/config.json": {},
}
STRANGE = [None, True, -1, 0.5, float("inf"), float("nan"), "", "text", "9", [], [1, "a"], {}, {"a": {"b": []}}, 10**40]


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def changed(value: Any, rng: random.Random) -> Any:
    """The value with something else somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.7:
        key = rng.choice(list(value))
        return {**value, key: changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return [*value[:place], changed(value[place], rng), *value[place + 1 :]]
    return rng.choice(STRANGE)


def test_whatever_stands_in_its_files_is_read_or_refused(tmp_path: Path) -> None:
    refused = 0
    for seed in range(150):
        rng = random.Random(seed)
        name = rng.choice(list(FILES))
        write(tmp_path, {**FILES, name: changed(FILES[name], rng)})
        try:
            found = read_model_folder(str(tmp_path), "m")
            _ = found.vector_length, found.prompts, found.prompt({})
        except ModelUnreadableError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("name", ["modules.json", "config.json", "1_Pooling/config.json"])
def test_a_file_that_is_too_deep_too_long_or_none_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {**FILES, name: "[" * 100_000})
    with pytest.raises(ModelUnreadableError, match="cannot be read"):
        read_model_folder(str(tmp_path))
    monkeypatch.setattr(model_folder, "MOST_JSON_BYTES", 1000)
    write(tmp_path, {name: "[" + " " * 1000 + "]"})
    with pytest.raises(ModelUnreadableError, match="more than 1,000 bytes"):
        read_model_folder(str(tmp_path))
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ModelUnreadableError, match="not a file but a named pipe"):
        read_model_folder(str(tmp_path))
