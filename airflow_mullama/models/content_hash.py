"""SHA-256 of model files, remembered: a file of gigabytes is read once, not once per task."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from airflow_mullama.cache import cache_directory
from airflow_mullama.storage.links import open_regular_file

BLOCK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, from the cache if path, size, inode and times are unchanged."""
    entry = _entry_of(path)
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        return str(json.loads(entry.read_text())["sha256"])
    digest = hashlib.sha256()
    with open_regular_file(path) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    _remember(entry, path, digest.hexdigest())
    return digest.hexdigest()


def remember_sha256(path: Path, sha256: str) -> None:
    """Keep what the content of a file is known to have."""
    _remember(_entry_of(path), path, sha256)


def _entry_of(path: Path) -> Path:
    status = path.stat()
    identity = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"
    return cache_directory() / "sha256" / (hashlib.sha256(identity.encode()).hexdigest() + ".json")


def _remember(entry: Path, path: Path, sha256: str) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        write_atomically(entry, json.dumps({"path": str(path), "sha256": sha256}).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small local file so that no reader, and no second writer, ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
