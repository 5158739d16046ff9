"""From the name a user writes to a model file on this machine."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from airflow_mullama.errors import (
    ConfigurationError,
    DependencyMissingError,
    ModelNotFoundError,
    ModelUnavailableError,
)
from airflow_mullama.models.content_hash import file_sha256
from airflow_mullama.models.gguf_header import GgufHeader, read_gguf_header
from airflow_mullama.paths import cache_directory
from airflow_mullama.storage.filesystems import Location, Resolver, resolve_location

log = logging.getLogger(__name__)

DEMO_PREFIX = "demo:"
HUB_PREFIX = "hf://"
SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<of>\d{5})\.gguf")


@dataclass(frozen=True)
class Model:
    """A model that is ready to be loaded.

    Args:
        name: as the user wrote it.
        path: the file the engine opens; for an engine without model files, the name.
        sha256: of the file's content.
        header: of the file.
        tokenizer: path of the ``tokenizer.json`` that belongs to it, if the model is known to need one.
        vector_length: of its embeddings, where they are the job.
    """

    name: str
    path: str
    sha256: str
    header: GgufHeader
    tokenizer: str | None = None
    vector_length: int | None = None

    @property
    def identity(self) -> str:
        """Hash of all that decides what the model answers: its content, and its tokenizer's."""
        return self.sha256 if self.tokenizer is None else f"{self.sha256}+{file_sha256(Path(self.tokenizer))}"


def model_without_file(name: str) -> Model:
    """A model that is only a name to its engine."""
    return Model(name, name, hashlib.sha256(name.encode()).hexdigest(), GgufHeader())


def resolve_model(name: str, resolver: Resolver = resolve_location) -> Model:
    """Find (or fetch), check and hash a model.

    Args:
        name: a path, ``demo:NAME``, ``hf://owner/repo/file.gguf`` or an object store's URL.
        resolver: opens object-store URLs.

    Raises:
        ModelNotFoundError: nothing there.
        ModelUnavailableError: it cannot be fetched now.
        ModelUnreadableError: not a whole GGUF file.
        DependencyMissingError: a package is missing that this kind of name needs.
    """
    path, tokenizer = locate_model(name, resolver)
    parts = [path.with_name(part) for part in split_names(path.name)]
    header = read_gguf_header(path)
    for part in parts[1:]:
        read_gguf_header(part)  # is it there, and whole?
    hashes = [file_sha256(part) for part in parts]
    sha256 = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return Model(name, str(path), sha256, header, str(tokenizer) if tokenizer else None)


def split_names(file_name: str) -> list[str]:
    """All parts of a model split by ``llama-gguf-split``, by the first one's name; any other name alone.

    Raises:
        ConfigurationError: a later part is named.
    """
    match = SPLIT_NAME.fullmatch(file_name)
    if match is None:
        return [file_name]
    stem, of = match["stem"], match["of"]
    if int(match["number"]) != 1:
        raise ConfigurationError(f"{file_name!r} is a later part of a split model; name {stem}-00001-of-{of}.gguf.")
    return [f"{stem}-{number:05d}-of-{of}.gguf" for number in range(1, int(of) + 1)]


def locate_model(name: str, resolver: Resolver = resolve_location) -> tuple[Path, Path | None]:
    """The model's file on this machine, fetched if need be, and its ``tokenizer.json`` if it comes with one."""
    if name.startswith(DEMO_PREFIX):
        return _demo_model(name)
    if name.startswith(HUB_PREFIX):
        return _hub_model(name), None
    if "://" in name and not name.startswith("file://"):
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
    return {"demo:ticket-tagger": _ticket_tagger, "demo:minilm": _minilm}


def _demo_model(name: str) -> tuple[Path, Path | None]:
    models = _demo_models()
    if name not in models:
        raise ModelNotFoundError(f"There is no demo model {name!r}; there are {', '.join(sorted(models))}.")
    return models[name]()


def _ticket_tagger() -> tuple[Path, Path | None]:
    return Path(__file__).parents[1] / "demo" / "models" / "ticket-tagger.gguf", None


def _minilm() -> tuple[Path, Path | None]:
    from airflow_mullama.demo.minilm import ensure_minilm

    minilm = ensure_minilm(cache_directory() / "models")
    return minilm.gguf, minilm.tokenizer


def _hub_model(name: str) -> Path:
    parts = name.removeprefix(HUB_PREFIX).split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise ConfigurationError(f"The model {name!r} is not of the form hf://owner/repo/file.gguf.")
    owner, repository, file_name = parts
    repository, _, revision = repository.partition("@")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ImportError as error:
        raise DependencyMissingError(
            f"The model {name!r} needs the package huggingface_hub: pip install 'airflow-mullama[huggingface]'."
        ) from error
    log.info("model %s: looking in the Hugging Face cache, else fetching it", name)
    try:
        folder, slash, last = file_name.rpartition("/")
        parts = [
            hf_hub_download(f"{owner}/{repository}", folder + slash + part, revision=revision or None)
            for part in split_names(last)
        ]
        return Path(parts[0])
    except LocalEntryNotFoundError as error:
        raise ModelUnavailableError(
            f"The model {name!r} is not in the Hugging Face cache and could not be fetched (offline mode, or no "
            "network): fetch it once with network, or copy the file here and give its path."
        ) from error
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"The model {name!r} is gated: accept its terms on its page and set HF_TOKEN to a token that may read it."
        ) from error
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise ModelNotFoundError(
            f"The model {name!r} does not exist, or needs a token: check owner, repository and file name, or set "
            "HF_TOKEN."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelUnavailableError(f"The model {name!r} could not be fetched: {error}.") from error


def _stored_model(name: str, resolver: Resolver) -> Path:
    """Copy a model's objects to the cache, once per state of them (sizes and modification times)."""
    first = resolver(name)
    parts = [first.parent.join(part) for part in split_names(first.name)]
    infos = [_object_info(part) for part in parts]
    states = "".join(f"{part.url}|{info.size}|{info.mtime_ns}\n" for part, info in zip(parts, infos, strict=True))
    folder = cache_directory() / "models" / hashlib.sha256(states.encode()).hexdigest()[:16]
    for part, info in zip(parts, infos, strict=True):
        target = folder / part.name
        if not (target.is_file() and target.stat().st_size == info.size):
            log.info("model %s: copying %.1f MB to %s", part.url, (info.size or 0) / 1e6, target)
            _download(part, target)
    return folder / first.name


def _object_info(location: Location) -> pafs.FileInfo:
    try:
        info = location.info()
    except (pa.ArrowException, OSError) as error:
        raise ModelUnavailableError(f"The model {location.url!r} cannot be looked up: {error}.") from error
    if info.type != pafs.FileType.File:
        raise ModelNotFoundError(
            f"There is no object at {location.url!r}: check the model's URL and the connection's rights."
        )
    return info


def _download(location: Location, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".download-")
    try:
        with location.filesystem.open_input_stream(location.path) as source, os.fdopen(handle, "wb") as sink:
            shutil.copyfileobj(source, sink, 8 << 20)
        os.replace(temporary, target)
    except (pa.ArrowException, OSError) as error:
        Path(temporary).unlink(missing_ok=True)
        raise ModelUnavailableError(f"The model {location.url!r} could not be copied: {error}.") from error
