"""The copies of models in the cache of a host: each fetched by one task, used by many, removed when room is needed.

A copy is a folder with two locks beside it. Whoever fetches holds one of them, so that others wait instead of fetching
too. Whoever uses the copy shares the other one until its process ends, however that ends, and what is shared is not
removed; its time of change says when the copy was used last.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from airflow_mullama.cache import CACHE_VARIABLE, LIMIT_VARIABLE, cache_directory, cache_limit
from airflow_mullama.errors import ModelCacheFullError

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.25
COPY_NAME = re.compile(r"[0-9a-f]{16}")
# Beside the copies there is more to be written: hashes, what other programs need.
SPARE_BYTES = 256 << 20

_in_use: dict[Path, int] = {}


@dataclass(frozen=True)
class CachedCopy:
    """The place of one copy: a folder in the cache.

    Args:
        key: names the copied state of a model; 16 hexadecimal digits.
    """

    key: str

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return cache_directory() / "models" / self.key

    def use(self) -> None:
        """From now on the copy is not removed, until this process ends; whether it is there is another question."""
        lock = _lock_of(self.folder)
        with contextlib.suppress(OSError):  # a filesystem that is read-only or without locks: nothing is removed there
            if lock not in _in_use:
                _in_use[lock] = _open(lock)
                fcntl.flock(_in_use[lock], fcntl.LOCK_SH)  # who has it alone removes the copy, which takes a moment
            os.utime(_in_use[lock])

    @contextlib.contextmanager
    def fetching(self, what: str) -> Iterator[None]:
        """Be the only one on this host who looks what is missing, and fetches it.

        Args:
            what: the model's name, for people.
        """
        handle = _open(self.folder.with_suffix(".fetching"))
        try:
            _wait_for(handle, what)
            yield
        finally:
            os.close(handle)

    def make_room(self, missing: int, what: str) -> None:
        """See that a model can be fetched, before it is; copies that nobody uses make room, the longest unused first.

        Args:
            missing: bytes that are to be fetched.
            what: the model's name, for people.

        Raises:
            ModelCacheFullError: there is not enough.
        """
        limit = cache_limit()
        others = sorted(self._others(), key=lambda copy: _used(copy.folder))
        removable = sum(_size(copy.folder) for copy in others)
        used = _size(self.folder) + removable
        in_vain = self._short_of(missing, used, limit) > removable
        if in_vain:  # it would not fit into an empty cache either, which then would be empty for nothing
            others, used = [], used - removable
        while (short := self._short_of(missing, used, limit)) > 0 and others:
            used -= others.pop(0)._remove()
        if short <= 0:
            return
        place = str(cache_directory())
        if limit is not None and used + missing > limit:
            if in_vain:
                raise ModelCacheFullError(
                    f"The model {what} needs {missing / 1e9:.1f} GB in the cache {place!r}, which may hold "
                    f"{limit / 1e9:.1f} GB ({LIMIT_VARIABLE}), whatever else is removed from it; raise the limit."
                )
            raise ModelCacheFullError(
                f"The model {what} needs {missing / 1e9:.1f} GB in the cache {place!r}, which may hold "
                f"{limit / 1e9:.1f} GB ({LIMIT_VARIABLE}) and of which running tasks use {used / 1e9:.1f} GB; raise "
                "the limit, or run again when they have ended."
            )
        raise ModelCacheFullError(
            f"The model {what} needs {missing / 1e9:.1f} GB, and the disk of the cache {place!r} has "
            f"{_free() / 1e9:.1f} GB free; free space there, or set {CACHE_VARIABLE} to a directory on a larger disk."
        )

    def _short_of(self, missing: int, used: int, limit: int | None) -> int:
        """How many bytes there are too few."""
        over = 0 if limit is None else used + missing - limit
        return max(over, missing + SPARE_BYTES - _free())

    def _others(self) -> list[CachedCopy]:
        with contextlib.suppress(OSError), os.scandir(self.folder.parent) as found:
            names = [entry.name for entry in found if COPY_NAME.fullmatch(entry.name) and entry.is_dir()]
            return [CachedCopy(name) for name in names if name != self.key]
        return []

    def _remove(self) -> int:
        """Remove the copy, if nobody uses it: its bytes, else 0."""
        try:
            handle = _open(_lock_of(self.folder))
        except OSError:  # another user's, who alone knows whether it is used
            return 0
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = _size(self.folder)
            shutil.rmtree(self.folder)
        except OSError:
            return 0
        finally:
            os.close(handle)
        log.info("removed a model of %.1f GB from the cache, which nobody used: %s", size / 1e9, self.folder)
        return size


def _lock_of(folder: Path) -> Path:
    # Never removed: who waits for a lock and who comes anew must mean the same file.
    return folder.with_suffix(".lock")


def _open(lock: Path) -> int:
    lock.parent.mkdir(parents=True, exist_ok=True)
    return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _wait_for(handle: int, what: str) -> None:
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                log.info("model %s: another task of this host fetches it; waiting for that", what)
            told = True
            time.sleep(WAIT_SECONDS)
        except OSError:
            return  # a filesystem without locks: it may be fetched twice, each time whole
        else:
            return


def _used(folder: Path) -> float:
    with contextlib.suppress(OSError):
        return _lock_of(folder).stat().st_mtime
    return 0.0


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += path.lstat().st_size if path.is_file() else 0
    return size


def _free() -> int:
    place = cache_directory() / "models"
    place.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(place).free
