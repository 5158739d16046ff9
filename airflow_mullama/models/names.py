"""What kind of thing a model's name stands for, by its form: a GGUF file, or a folder as transformers writes it."""

from __future__ import annotations

import re
from pathlib import Path

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.storage.addresses import local_path, scheme_of

DEMO_PREFIX = "demo:"
HUB_PREFIX = "hf://"
SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<of>\d{5})\.gguf")
MINILM = "demo:minilm"
"""Both: a folder where its package lies, and a GGUF file that is made of it."""
HUB_FOLDER = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)


def may_be_gguf(name: str) -> bool:
    """Whether a name may stand for a GGUF file: every one that does not stand for a folder."""
    return name == MINILM or not may_be_folder(name)


def may_be_folder(name: str) -> bool:
    """Whether a name stands for a folder: one that is there, a repository on the Hub, a URL that ends in a slash."""
    if name == MINILM:
        return True
    if name.startswith(HUB_PREFIX):
        return HUB_FOLDER.fullmatch(name.removeprefix(HUB_PREFIX)) is not None
    if scheme_of(name) not in ("", "file"):
        return name.endswith("/")
    path = Path(local_path(name))
    return path.is_dir() or (is_hub_id(name) and not path.exists())


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ``owner/name`` or ``owner/name@revision``, and is no GGUF file's."""
    return HUB_FOLDER.fullmatch(name) is not None and not name.lower().endswith(".gguf")


def split_names(file_name: str) -> list[str]:
    """All parts of a model that ``llama-gguf-split`` has split, given the first one's name; any other name alone.

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
