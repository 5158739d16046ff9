"""What a model's folder says of itself, read without PyTorch: its modules, their weights, its prompts, its vectors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_mullama.errors import ModelUnreadableError
from airflow_mullama.storage.links import open_regular_file

MODULES_FILE = "modules.json"
SETTINGS_FILE = "config_sentence_transformers.json"
# Of a file of settings; the longest known ones have some kilobytes.
MOST_JSON_BYTES = 16 << 20
# Where architectures say how wide they are, the commonest name first.
WIDTH_KEYS = ("hidden_size", "d_model", "dim", "n_embd", "model_dim")
# How folders of before version 5.5 of sentence-transformers name a pooling.
LEGACY_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Module:
    """One step on the way from a text to a vector.

    Args:
        kind: the name of its class if it is one of sentence-transformers' own, else the whole name.
        folder: where its files lie.
        settings: of its ``config.json``.
    """

    kind: str
    folder: Path
    settings: Mapping[str, Any]

    @property
    def is_foreign(self) -> bool:
        """Whether it is code that the model brings."""
        return "." in self.kind

    @property
    def poolings(self) -> tuple[str, ...]:
        """Of a ``Pooling``: how it makes one vector of many; several are put side by side."""
        named = self.settings.get("pooling_mode")
        if named is None:
            named = [mode for key, mode in LEGACY_POOLINGS.items() if self.settings.get(key)] or "mean"
        return (named,) if isinstance(named, str) else tuple(named)


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder.

    Args:
        path: of the folder.
        modules: in order; one ``Transformer`` where the folder was written by transformers alone.
        settings: those of sentence-transformers.
        is_plain: written by transformers alone, so that it does not say how token vectors become one.
    """

    path: Path
    modules: tuple[Module, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_plain: bool = False

    @property
    def prompts(self) -> dict[str, str]:
        """The model's own prompts, by name."""
        prompts = self.settings.get("prompts") or {}
        return {str(name): str(text) for name, text in prompts.items() if text is not None}

    def prompt(self, options: Mapping[str, Any]) -> str:
        """What is put before each text: what the options say, else the model's default."""
        if (text := options.get("prompt")) is not None:
            return str(text)
        name = options.get("prompt_name") or self.settings.get("default_prompt_name")
        return "" if name is None else self.prompts.get(name, "")

    @property
    def vector_length(self) -> int | None:
        """How many numbers a vector has; ``None`` if the folder does not say."""
        length: int | None = None
        for module in self.modules:
            length = _length_after(module, length)
        most = self.settings.get("truncate_dim")
        return length if length is None or not most else min(length, int(most))


def read_model_folder(path: str, model: str | None = None) -> ModelFolder:
    """Read it.

    Args:
        path: of the folder.
        model: its name, for people.

    Raises:
        ModelUnreadableError: the folder holds no model, or files of it are not what they should be.
    """
    found = _read(Path(path), model or path)
    try:
        _ = found.prompts, found.prompt({}), found.vector_length, [module.poolings for module in found.modules]
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise ModelUnreadableError(
            f"The model {model or path!r} says of itself what makes no sense ({type(error).__name__}: {error}): look "
            f"at {SETTINGS_FILE}, and at the config.json of each of its modules."
        ) from error
    return found


def _read(folder: Path, name: str) -> ModelFolder:
    settings = _json(folder / SETTINGS_FILE, name, {})
    listed = _json(folder / MODULES_FILE, name, None)
    if listed is None:
        config = _json(folder / "config.json", name, None)
        if config is None:
            raise ModelUnreadableError(_no_model(name, folder))
        return ModelFolder(folder, (Module("Transformer", folder, config),), settings, is_plain=True)
    try:
        modules = tuple(_module(folder, one, name) for one in listed)
    except (TypeError, KeyError, AttributeError) as error:
        raise ModelUnreadableError(
            f"The model {name!r} has a {MODULES_FILE} that is not a list of modules ({error!r})."
        ) from error
    if not modules:
        raise ModelUnreadableError(f"The model {name!r} has a {MODULES_FILE} that names no module.")
    return ModelFolder(folder, modules, settings)


def _no_model(model: str, path: Path) -> str:
    ggufs = sorted(file.name for file in path.glob("*.gguf"))
    remedy = (
        f"it holds GGUF files: give the path of one, such as {path / ggufs[0]}"
        if ggufs
        else "give the folder that a model was saved to"
    )
    return f"The model {model!r} is a folder that holds neither {MODULES_FILE} nor config.json; {remedy}."


def _module(path: Path, listed: Mapping[str, str], model: str) -> Module:
    folder, kind = (path / listed["path"]).resolve(), listed["type"]
    if path.resolve() not in (folder, *folder.parents):
        raise ModelUnreadableError(f"The model {model!r} names a module outside of its folder: {listed['path']!r}.")
    if kind.startswith("sentence_transformers."):
        kind = kind.rpartition(".")[2]
    return Module(kind, folder, _json(folder / "config.json", model, {}))


def _json(path: Path, model: str, missing: Any) -> Any:
    try:
        with open_regular_file(path) as file:
            content = file.read(MOST_JSON_BYTES + 1)
        if len(content) > MOST_JSON_BYTES:
            raise ValueError(f"it has more than {MOST_JSON_BYTES:,} bytes")
        return json.loads(content)
    except FileNotFoundError:
        return missing
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnreadableError(f"The model {model!r} has a {path.name} that cannot be read: {error}.") from error


def _length_after(module: Module, length: int | None) -> int | None:
    """How long a vector is behind a module, given how long it is before."""
    settings = module.settings
    if module.kind == "Transformer":
        nested = settings.get("text_config") or {}
        found = [mapping[key] for mapping in (settings, nested) for key in WIDTH_KEYS if key in mapping]
        return int(found[0]) if found else None
    if module.kind == "Pooling":
        width = settings.get("embedding_dimension") or settings.get("word_embedding_dimension") or length
        return None if width is None else int(width) * len(module.poolings)
    if module.kind == "Dense":
        written = settings.get("module_output_name") or settings.get("module_input_name")
        return int(settings["out_features"]) if written in (None, "sentence_embedding") else length
    if module.kind == "StaticEmbedding":
        shapes = tensor_shapes(module.folder / "model.safetensors")
        shape = shapes.get("embedding.weight") or shapes.get("embeddings") or ()
        return shape[-1] if len(shape) == 2 else None
    return None if module.is_foreign else length


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name of the tensors in a safetensors file, from its header; empty if it is none."""
    try:
        with open_regular_file(path) as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(size, 100 << 20)))
        return {name: tuple(map(int, one["shape"])) for name, one in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, struct.error, AttributeError, RecursionError):
        return {}
