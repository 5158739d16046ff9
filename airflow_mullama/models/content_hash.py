"""SHA-256 of model files, remembered: a file of gigabytes is read once, not once a task."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from airflow_mullama.paths import cache_directory

BLOCK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, from the cache if path, size, inode and modification time are unchanged."""
    status = path.stat()
    identity = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}"
    entry = cache_directory() / "sha256" / (hashlib.sha256(identity.encode()).hexdigest() + ".json")
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        return str(json.loads(entry.read_text())["sha256"])
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        write_atomically(entry, json.dumps({"path": str(path), "sha256": digest.hexdigest()}).encode())
    return digest.hexdigest()


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
