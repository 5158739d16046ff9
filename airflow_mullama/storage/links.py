"""Symbolic links: followed where something is read, each real file once; refused where something is written."""

from __future__ import annotations

import heapq
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from airflow_mullama.errors import ConfigurationError, InputUnreadableError, OutputNotWritableError
from airflow_mullama.redaction.foreign_text import printable
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import data_format, is_data

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A file or directory that was come across while listing.

    Args:
        path: on its filesystem.
        is_file: whether it is a file, and else a directory.
        size: of a file, in bytes.
    """

    path: str
    is_file: bool
    size: int = 0

    @property
    def name(self) -> str:
        """The last segment of the path."""
        return self.path.rsplit("/", 1)[-1]


@dataclass
class LinkedTree:
    """A directory of this machine, listed so that no real file and no real directory is come across twice.

    What lies there itself comes first; links to what is then not known yet are followed afterwards, by
    :meth:`further`. So which of two names counts does not depend on the order of a directory.

    Args:
        root: path of the directory.
    """

    root: str
    _real: dict[str, str] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _links: list[str] = field(default_factory=list)
    _repeated: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._enter(self.root, os.path.realpath(self.root))

    def children(self, directory: str) -> list[Entry]:
        """What lies in a directory: the root, or one that was come across. Links are kept for later.

        Raises:
            InputUnreadableError: a name that is not UTF-8, or something that is not a file has the name of one.
            OSError: the directory cannot be listed.
        """
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        children = []
        for entry in entries:
            if entry.is_symlink():
                if is_data(entry.name):
                    heapq.heappush(self._links, entry.path)
                continue
            if (child := _entry(entry.path, entry.stat(follow_symlinks=False))) is not None:
                real = os.path.join(self._real[directory], entry.name)
                if real in self._seen:
                    self._repeated.append(entry.path)
                else:
                    self._enter(entry.path, real)
                    children.append(child)
        return children

    def further(self) -> Iterator[Entry]:
        """What the links lead to that were come across; directories among it may be listed, and have links again.

        Raises:
            InputUnreadableError: a link leads to nothing.
        """
        while self._links:
            path = heapq.heappop(self._links)
            real = os.path.realpath(path)
            holder = os.path.realpath(os.path.dirname(path))
            if real in self._seen or f"{holder}/".startswith(f"{real.rstrip('/')}/"):
                self._repeated.append(path)
                continue
            try:
                status = os.stat(path)
            except OSError as error:
                if "." in os.path.basename(path) and data_format(path) is None:
                    continue  # by its name no data, wherever it led
                raise InputUnreadableError(
                    f"{path!r} is a link to {os.readlink(path)!r}, which cannot be opened ({error.strerror}); mount or "
                    "restore what it leads to, or remove the link."
                ) from None
            if (entry := _entry(path, status)) is not None:
                self._enter(path, real)
                yield entry

    def tell_repeated(self) -> None:
        """Say in the log which links were left out because they lead to what is read already."""
        if self._repeated:
            log.warning(
                "%d link(s) below %s are left out: they lead to what is read anyway or to a directory above; one is %s",
                len(self._repeated),
                printable(self.root),
                printable(min(self._repeated)),
            )

    def _enter(self, path: str, real: str) -> None:
        self._real[path] = real
        self._seen.add(real)


def _entry(path: str, status: os.stat_result) -> Entry | None:
    name = os.path.basename(path)
    is_directory = stat.S_ISDIR(status.st_mode)
    if not is_data(name) and not is_directory:
        return None
    if (is_directory or data_format(name) is not None) and not _is_utf8(name):
        raise InputUnreadableError(
            f"The name of {path!r} is not UTF-8, and Arrow opens no other names; give it another name, or one that "
            "begins with '_' if it is not data."
        )
    if is_directory:
        return Entry(path, is_file=False)
    if stat.S_ISREG(status.st_mode):
        return Entry(path, is_file=True, size=status.st_size) if _is_utf8(name) else None
    if data_format(name) is not None:
        kind = kind_of_file(status.st_mode)
        raise InputUnreadableError(f"{path!r} is not a file but {kind}; take it out of the input.")
    return None


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def kind_of_file(mode: int) -> str:
    """What lies at a path that is neither a file nor a directory, for people."""
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFLNK: "a link",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def link_on_the_way(above: Location, below: Location) -> str | None:
    """The first link on the way from a directory to a place below it, that place included.

    The directory's own path may well have links in it: that is how machines are laid out.
    """
    if not below.is_local:
        return None
    path = above.path
    for name in below.path[len(path) :].strip("/").split("/"):
        path = os.path.join(path, name)
        if os.path.islink(path):
            return path
    return None


def refuse_output_through_link(output: Location, target: Location) -> None:
    """Refuse an output that a link below ``output_path`` leads somewhere else.

    Args:
        output: what the user gave: a directory, or the file itself.
        target: the file to be written.

    Raises:
        ConfigurationError: names the link.
    """
    link = link_on_the_way(target.parent if target.path == output.path else output, target)
    if link is not None:
        raise ConfigurationError(
            f"The output {target.url!r} would be written through the link {link!r} to {os.readlink(link)!r}; give the "
            "place that it leads to as output_path, or remove the link."
        )


def refuse_link(above: Location, below: Location) -> None:
    """Refuse to keep anything of ours below a link that somebody has put beside an output.

    Args:
        above: the output's directory.
        below: a place of ours below it.

    Raises:
        OutputNotWritableError: names the link.
    """
    if (link := link_on_the_way(above, below)) is not None:
        raise OutputNotWritableError(
            f"{link!r} is a link to {os.readlink(link)!r}, and nothing is written or deleted through a link there; "
            "remove it."
        )


def open_regular_file(path: str | os.PathLike[str], *, follow: bool = True) -> BinaryIO:
    """Open a file of this machine for reading.

    Args:
        path: of the file.
        follow: whether it may be a link.

    Raises:
        OSError: it cannot be opened, or is not a file: a pipe, for one, would be waited for without end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError("it is a directory")
    raise OSError(f"it is not a file but {kind_of_file(mode)}")


def read_regular_file(location: Location, most: int | None = None) -> bytes:
    """The content of a file of ours.

    Args:
        location: of the file.
        most: bytes that a file of its kind has; ``None``: any number.

    Raises:
        OSError: it cannot be read, has more bytes, or is not a file, or is a link.
    """
    limit = -1 if most is None else most + 1
    if location.is_local:
        with open_regular_file(location.path, follow=False) as file:
            content = file.read(limit)
    else:
        with location.filesystem.open_input_stream(location.path) as stream:
            content = bytes(stream.read(None if most is None else limit))
    if most is not None and len(content) > most:
        raise OSError(f"it has more than {most:,} bytes")
    return content
