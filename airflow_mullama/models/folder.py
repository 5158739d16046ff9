"""Models that are folders, as transformers and sentence-transformers write them."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterator
from pathlib import Path

from airflow_mullama.errors import ModelMismatchError, ModelNotFoundError, ModelUnreadableError
from airflow_mullama.models.content_hash import file_sha256
from airflow_mullama.models.gguf_header import GgufHeader
from airflow_mullama.models.hub import hub_folder
from airflow_mullama.models.names import DEMO_PREFIX, HUB_PREFIX, MINILM, is_hub_id
from airflow_mullama.models.object_store import copied, objects_below
from airflow_mullama.models.resolve import Model
from airflow_mullama.storage.addresses import local_path, scheme_of
from airflow_mullama.storage.filesystems import Resolver, resolve_location

# What can decide a vector: settings, vocabularies, weights, and a model's own code. Weights in other files (pickled
# ones, those of other frameworks, other precisions of an exported model) are neither fetched nor hashed.
WANTED = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.safetensors", "*.py")
WANTED_OF_BACKEND = {
    "torch": (),
    "onnx": ("model.onnx", "model.onnx_data", "onnx/model.onnx", "onnx/model.onnx_data"),
    "openvino": ("openvino_model.xml", "openvino_model.bin", "openvino/openvino_model.*"),
}
# Checkpoints of a training, files of other programs, and whatever is hidden.
UNWANTED = (".*", "*/.*", "checkpoint-*", "original/*", "eval/*", "runs/*", "onnx/*.json", "openvino/*.json")


def resolve_folder(name: str, resolver: Resolver, sha256: str | None = None, backend: str = "torch") -> Model:
    """Find (or fetch) and hash a folder.

    Args:
        name: a path, ``owner/repo`` on the Hub, with ``@revision`` or not, an object store's URL that ends in a slash,
            or ``demo:minilm``.
        resolver: opens object-store URLs.
        sha256: that the content must have; nothing of it is parsed before.
        backend: what will compute: ``torch``, ``onnx`` or ``openvino``.

    Raises:
        ModelNotFoundError: nothing there.
        ModelUnavailableError: it cannot be fetched now.
        ModelMismatchError: another content than ``sha256``.
        ModelUnreadableError: a file cannot be read.
        DependencyMissingError: a package is missing that this kind of name needs.
    """
    folder = locate_folder(name, resolver, backend)
    try:
        found = folder_sha256(folder, backend)
    except OSError as error:
        raise ModelUnreadableError(f"The model {name!r} cannot be read: {error}.") from error
    if sha256 not in (None, found):
        raise ModelMismatchError(
            f"The model {name!r} has the SHA-256 {found}, and model_sha256 says {sha256}: it is not the folder that "
            "was meant. Fetch that again, or correct model_sha256."
        )
    return Model(name, str(folder), found, GgufHeader())


def locate_folder(name: str, resolver: Resolver = resolve_location, backend: str = "torch") -> Path:
    """The model's folder on this machine, fetched if need be."""
    if name.startswith(DEMO_PREFIX):
        return _demo_folder(name)
    if name.startswith(HUB_PREFIX):
        return hub_folder(name, (*WANTED, *WANTED_OF_BACKEND[backend]), UNWANTED)
    if scheme_of(name) not in ("", "file"):
        return _stored_folder(name, resolver, backend)
    path = Path(local_path(name)).absolute()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelNotFoundError(
            f"The model {name!r} is a file; engine='sentence_transformers' takes a folder, a repository on the Hub "
            "such as BAAI/bge-small-en-v1.5, or an object store's URL that ends in a slash."
        )
    if is_hub_id(name):
        return hub_folder(name, (*WANTED, *WANTED_OF_BACKEND[backend]), UNWANTED)
    raise ModelNotFoundError(
        f"The model {name!r} does not exist: give a folder, a repository on the Hub such as BAAI/bge-small-en-v1.5, or "
        f"an object store's URL that ends in a slash (looked at {str(path)!r})."
    )


def folder_sha256(folder: Path, backend: str = "torch") -> str:
    """The hash of all files that can decide a vector: of their names and hashes, one a line, by name."""
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in deciding_files(folder, backend)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def deciding_files(folder: Path, backend: str = "torch") -> list[str]:
    """Names of the files that can decide a vector, below the folder, with slashes, in order."""
    return sorted(name for name in _names_below(folder) if is_wanted(name, backend))


def is_wanted(name: str, backend: str) -> bool:
    """Whether a file can decide a vector; decided as the Hub's client does."""
    wanted = (*WANTED, *WANTED_OF_BACKEND[backend])
    return _matches(name, wanted) and not _matches(name, UNWANTED)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _names_below(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _demo_folder(name: str) -> Path:
    from airflow_mullama.models.minilm import packaged_folder

    if name != MINILM:
        raise ModelNotFoundError(f"There is no demo model {name!r} that is a folder; there is {MINILM}.")
    return packaged_folder()


def _stored_folder(name: str, resolver: Resolver, backend: str) -> Path:
    location = resolver(name.rstrip("/"))
    objects = [stored for stored in objects_below(location) if is_wanted(stored[1], backend)]
    if not objects:
        raise ModelNotFoundError(f"There is no model at {location.url!r}: check the URL and the connection's rights.")
    return copied(objects)
