"""Files that rows name: read from one folder and from nowhere else, whatever a row says.

A row's text must not decide which files of this machine, or which buckets that its credentials open, are read and sent
to a model. So paths and URLs count from a root that the job's author gives, and one that leads out of it is refused.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow.fs as pafs

from airflow_mullama.byte_bounds import MIB
from airflow_mullama.errors import ConfigurationError, InputNotFoundError
from airflow_mullama.redaction.foreign_text import printable
from airflow_mullama.storage.addresses import scheme_of
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.places import place_of

READ_AT_ONCE = 8
MOST_PATH_CHARACTERS = 4096
MOST_FOUND = 10_000

Result = TypeVar("Result")


@dataclass(frozen=True)
class Unread:
    """Why a file's bytes are not there.

    Args:
        reason: for people; goes on behind the path.
        may_pass: whether another attempt may read it.
    """

    reason: str
    may_pass: bool


@dataclass(frozen=True)
class _Found:
    """Where a file lies, and how many bytes it has."""

    path: str
    size: int


class PictureFiles:
    """Reads files below a root.

    Args:
        root: a folder.
        most_bytes: of one file; a larger one is not read.

    Raises:
        InputNotFoundError: the root is a folder of this machine and not there.
    """

    def __init__(self, root: Location, most_bytes: int) -> None:
        self._root = root
        self._most_bytes = most_bytes
        self._place = place_of(root.address)
        self._found: dict[str, _Found | Unread] = {}
        if root.is_local and not os.path.isdir(root.path):
            raise InputNotFoundError(
                f"image_root is {root.url!r}, and there is no such folder: name the folder that the paths in "
                "image_columns begin at."
            )

    def sizes(self, paths: Sequence[str]) -> list[int]:
        """How many bytes each file has; 0 if it cannot be read. What is found out is kept for :meth:`read`."""
        if len(self._found) > MOST_FOUND:
            self._found.clear()
        unknown = [path for path in dict.fromkeys(paths) if path not in self._found]
        self._found |= dict(zip(unknown, self._each(self._find, unknown), strict=True))
        found = [self._found[path] for path in paths]
        return [0 if isinstance(one, Unread) else one.size for one in found]

    def read(self, paths: Sequence[str]) -> list[bytes | Unread]:
        """The content of each file, several at a time where they are not of this machine."""
        return self._each(self._read, paths)

    def _each(self, work: Callable[[str], Result], paths: Sequence[str]) -> list[Result]:
        if self._root.is_local or len(paths) < 2:
            return [work(path) for path in paths]
        return _several_at_once(work, paths)

    def _read(self, path: str) -> bytes | Unread:
        found = self._found.pop(path, None) or self._find(path)
        if isinstance(found, Unread):
            return found
        try:
            with self._root.filesystem.open_input_stream(found.path) as stream:
                content = stream.read(self._most_bytes + 1)
        except Exception as error:  # noqa: BLE001 - whatever a store's client raises, it is this file's
            return Unread(f"cannot be read now: {error}", may_pass=True)
        if len(content) > self._most_bytes:
            return self._too_large(len(content))
        return bytes(content)

    def _find(self, path: str) -> _Found | Unread:
        root = self._root
        try:
            below = self._below(path)
        except (ConfigurationError, ValueError) as error:
            return Unread(f"names no file: {error}", may_pass=False)
        if below is None:
            return Unread(f"leads out of {root.url!r} (image_root)", may_pass=False)
        where = f"{root.path.rstrip('/')}/{below}"
        if root.is_local and not _is_below(os.path.realpath(where), os.path.realpath(root.path)):
            return Unread(f"is a link that leads out of {root.url!r} (image_root)", may_pass=False)
        try:
            info = root.filesystem.get_file_info(where)
        except Exception as error:  # noqa: BLE001 - as above
            return Unread(f"cannot be read now: {error}", may_pass=True)
        if info.type is pafs.FileType.NotFound:
            return Unread(f"is not there (below {root.url!r})", may_pass=True)
        if info.type is not pafs.FileType.File:
            return Unread("is no file", may_pass=False)
        size = int(info.size or 0)
        return self._too_large(size) if size > self._most_bytes else _Found(where, size)

    def _too_large(self, size: int) -> Unread:
        return Unread(f"has {size / MIB:,.1f} MiB, and {self._most_bytes // MIB} MiB is the most", may_pass=False)

    def _below(self, path: str) -> str | None:
        """The path from the root on; ``None`` if it leads elsewhere."""
        if not path.strip() or "\x00" in path or len(path) > MOST_PATH_CHARACTERS:
            raise ValueError("it is empty, too long or no path")
        path.encode()  # what is not Unicode names nothing
        if scheme_of(path) or path.startswith("/"):
            place = place_of(path)
            if (place.scheme, place.bucket) != (self._place.scheme, self._place.bucket):
                return None
            if not self._root.is_local:
                return _relative(place.path, self._place.path)
            return _relative(place.path, self._root.path) or _relative(place.path, os.path.realpath(self._root.path))
        below = posixpath.normpath(path)
        return None if below in (".", "..") or below.startswith(("../", "/")) else below


def _relative(path: str, root: str) -> str | None:
    """A path from a folder on; ``None`` if it does not lie in it."""
    whole, folder = (posixpath.normpath("/" + one.strip("/")) for one in (path, root))
    return whole.removeprefix(folder).lstrip("/") or None if _is_below(whole, folder) else None


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _several_at_once(work: Callable[[str], Result], paths: Sequence[str]) -> list[Result]:
    """On threads that nobody waits for when the process ends: a store may hang. The work raises nothing."""
    waiting: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Result]] = queue.SimpleQueue()
    for numbered in enumerate(paths):
        waiting.put(numbered)

    def work_on() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                place, path = waiting.get_nowait()
                done.put((place, work(path)))

    for _ in range(min(READ_AT_ONCE, len(paths))):
        threading.Thread(target=work_on, daemon=True, name="mullama-pictures").start()
    results = dict(done.get() for _ in paths)
    return [results[place] for place in range(len(paths))]


def shown_path(path: str) -> str:
    """A row's path for a message: what may be secret of a URL is not shown."""
    return printable(path.partition("?")[0] if scheme_of(path) else path, 200)
