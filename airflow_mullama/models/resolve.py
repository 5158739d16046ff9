"""From the name a user writes to a model file on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_mullama.cache import cache_directory
from airflow_mullama.errors import (
    ModelMismatchError,
    ModelNotFoundError,
    ModelUnreadableError,
)
from airflow_mullama.models.content_hash import file_sha256
from airflow_mullama.models.gguf_header import GgufHeader, read_gguf_header
from airflow_mullama.models.hub import hub_file
from airflow_mullama.models.names import DEMO_PREFIX, HUB_PREFIX, split_names
from airflow_mullama.models.object_store import copied, object_info
from airflow_mullama.storage.addresses import scheme_of
from airflow_mullama.storage.filesystems import Resolver, resolve_location


@dataclass(frozen=True)
class Adapter:
    """An adapter that is ready to be loaded.

    Args:
        name: as the user wrote it.
        path: of the file.
        scale: how strongly it changes the model; 0 not at all.
        sha256: of the file's content.
    """

    name: str
    path: str
    scale: float
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {"path": self.name, "scale": self.scale, "sha256": self.sha256}


@dataclass(frozen=True)
class Projector:
    """A projector that is ready to be loaded: it turns pictures into what a model reads.

    Args:
        name: as the user wrote it.
        path: of the file.
        sha256: of the file's content.
    """

    name: str
    path: str
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {"path": self.name, "sha256": self.sha256}


@dataclass(frozen=True)
class Model:
    """A model that is ready to be loaded.

    Args:
        name: as the user wrote it.
        path: the file the engine opens; for an engine without model files, the name.
        sha256: of the file's content.
        header: of the file.
        tokenizer: path of the ``tokenizer.json`` that belongs to it, if the model is known to need one.
        vector_length: of its embeddings, for a job that embeds.
        files: local paths of the files that engine options name, by option.
        adapters: what changes it, in order (:mod:`airflow_mullama.models.adapters`).
        projector: what brings pictures to it (:mod:`airflow_mullama.models.projectors`).
    """

    name: str
    path: str
    sha256: str
    header: GgufHeader
    tokenizer: str | None = None
    vector_length: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    adapters: tuple[Adapter, ...] = ()
    projector: Projector | None = None

    @property
    def identity(self) -> str:
        """Hash of all that decides what the model answers: its content, its tokenizer's, its adapters' and its
        projector's."""
        tokenizer = "" if self.tokenizer is None else f"+{file_sha256(Path(self.tokenizer))}"
        adapters = "".join(f"+{one.scale!r}*{one.sha256}" for one in self.adapters)
        return self.sha256 + tokenizer + adapters + (f"+mmproj*{self.projector.sha256}" if self.projector else "")


def model_without_file(name: str) -> Model:
    """A model that is only a name to its engine."""
    return Model(name, name, hashlib.sha256(name.encode()).hexdigest(), GgufHeader())


def resolve_model(name: str, resolver: Resolver = resolve_location, sha256: str | None = None) -> Model:
    """Find (or fetch), hash and check a model.

    Args:
        name: a path, ``demo:NAME``, ``hf://owner/repo/file.gguf`` or an object store's URL.
        resolver: opens object-store URLs.
        sha256: that the content must have; nothing else of the file is looked at before.

    Raises:
        ModelNotFoundError: nothing there.
        ModelUnavailableError: it cannot be fetched now.
        ModelMismatchError: another content than ``sha256``.
        ModelUnreadableError: not a whole GGUF file.
        DependencyMissingError: a package is missing that this kind of name needs.
    """
    path, tokenizer = locate_model(name, resolver)
    parts = [path.with_name(part) for part in split_names(path.name)]
    found = None if sha256 is None else _content_sha256(name, parts)
    if found != sha256:
        raise ModelMismatchError(
            f"The model {name!r} has the SHA-256 {found}, and model_sha256 says {sha256}: it is not the file that was "
            "meant. Fetch that again, or correct model_sha256."
        )
    header = read_gguf_header(path)
    for part in parts[1:]:
        read_gguf_header(part)  # is it there, and whole?
    return Model(name, str(path), found or _content_sha256(name, parts), header, str(tokenizer) if tokenizer else None)


def _content_sha256(name: str, parts: Sequence[Path]) -> str:
    """Of the file; of several parts, that of their hashes in hexadecimal, one behind the other."""
    try:
        hashes = [file_sha256(part) for part in parts]
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"The model {name!r} lacks the part {error.filename!r}: copy it here too.") from error
    except OSError as error:
        raise ModelUnreadableError(f"The model {name!r} cannot be read: {error}.") from error
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def locate_model(name: str, resolver: Resolver = resolve_location) -> tuple[Path, Path | None]:
    """The model's file on this machine, fetched if need be, and its ``tokenizer.json`` if it comes with one."""
    if name.startswith(DEMO_PREFIX):
        return _demo_model(name)
    if name.startswith(HUB_PREFIX):
        return hub_file(name), None
    if scheme_of(name) not in ("", "file"):
        return _stored_model(name, resolver), None
    path = Path(resolve_location(name).path)
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise ModelNotFoundError(
            f"The model {name!r} {what}: give a GGUF file's path, hf://owner/repo/file.gguf, an object-store URL, "
            f"or one of {', '.join(sorted(_demo_models()))} (looked at {str(path)!r})."
        )
    return path, None


def _demo_models() -> dict[str, Callable[[], tuple[Path, Path | None]]]:
    return {"demo:ticket-tagger": _ticket_tagger, "demo:minilm": _minilm, "demo:adder": _adder}


def _demo_model(name: str) -> tuple[Path, Path | None]:
    models = _demo_models()
    if name not in models:
        raise ModelNotFoundError(f"There is no demo model {name!r}; there are {', '.join(sorted(models))}.")
    return models[name]()


def _ticket_tagger() -> tuple[Path, Path | None]:
    return Path(__file__).parents[1] / "demo" / "models" / "ticket-tagger.gguf", None


def _adder() -> tuple[Path, Path | None]:
    return Path(__file__).parents[1] / "demo" / "models" / "adder.gguf", None


def _minilm() -> tuple[Path, Path | None]:
    from airflow_mullama.models.minilm import ensure_minilm

    minilm = ensure_minilm(cache_directory() / "models")
    return minilm.gguf, minilm.tokenizer


def _stored_model(name: str, resolver: Resolver) -> Path:
    """Copy a model's objects to the cache, once per state of them."""
    first = resolver(name)
    parts = [first.parent.join(part) for part in split_names(first.name)]
    return copied([(part, part.name, object_info(part)) for part in parts]) / first.name
