"""Finding the Parquet files below a directory, without listing what a filter rules out.

Names that begin with ``_`` or ``.`` are not data (the convention of Hive, Spark and Arrow).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.fs as pafs

from airflow_mullama.errors import InputUnreadableError, StorageUnavailableError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import HIVE_SEGMENT, HiveFilter, hive_values

PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
# A filter that leaves more directories than this is applied after listing everything: fewer, larger requests.
MOST_LISTED_APART = 64


@dataclass(frozen=True)
class Leaf:
    """A directory that holds Parquet files directly.

    Args:
        relative: its path below the directory that was listed; empty for that one itself.
        files: the Parquet files in it, in the order of their names.
        size: bytes of them.
    """

    relative: str
    files: tuple[Location, ...]
    size: int


@dataclass
class KeysSeen:
    """What was come across while listing, wanted or not: for a message that says what there is.

    Args:
        values: of each hive key.
        reached_files: whether the listing got down to a data file.
    """

    values: dict[str, set[str | None]] = field(default_factory=dict)
    reached_files: bool = False

    def add(self, path: str) -> None:
        """Take the keys and values of a path."""
        for key, value in hive_values(path).items():
            self.values.setdefault(key, set()).add(value)


def is_data(name: str) -> bool:
    """Whether a file or directory of this name is data."""
    return not name.startswith(("_", "."))


def is_parquet(name: str) -> bool:
    """Whether a file of this name is taken for Parquet."""
    return is_data(name) and name.lower().endswith(PARQUET_SUFFIXES)


def list_leaves(source: Location, where: HiveFilter | None, seen: KeysSeen) -> list[Leaf]:
    """The directories at or below ``source`` that hold Parquet files, in order of path.

    Args:
        source: a directory.
        where: leaves out what it rules out.
        seen: is told of everything come across, wanted or not.

    Raises:
        InputUnreadableError: a hive directory holds files, and none is Parquet.
        StorageUnavailableError: the filesystem does not answer.
    """
    parquet: dict[str, list[pafs.FileInfo]] = {}
    foreign: dict[str, str] = {}
    values_of_source = hive_values(source.path)
    try:
        for info in _walk(source.filesystem, source.path, where, seen):
            *directories, name = info.path[len(source.path) :].strip("/").split("/")
            if info.type != pafs.FileType.File or not all(map(is_data, [*directories, name])):
                continue
            relative = "/".join(directories)
            seen.reached_files = True
            seen.add(relative)
            if where is not None and not where.matches({**values_of_source, **hive_values(relative)}):
                continue
            if is_parquet(name):
                parquet.setdefault(relative, []).append(info)
            else:
                foreign.setdefault(relative, name)
    except (OSError, pa.ArrowException) as error:
        raise StorageUnavailableError(f"The directory {source.url!r} cannot be listed: {error}.") from error
    for relative, name in sorted(foreign.items()):
        _refuse_without_parquet(source, relative, name, parquet)
    return [_leaf(source, relative, parquet[relative]) for relative in sorted(parquet)]


def _walk(
    filesystem: pafs.FileSystem, directory: str, where: HiveFilter | None, seen: KeysSeen
) -> Iterator[pafs.FileInfo]:
    """Everything below a directory but the hive directories that ``where`` rules out."""
    if where is not None:
        here = filesystem.get_file_info(pafs.FileSelector(directory))
        folders = [info for info in here if info.type == pafs.FileType.Directory and HIVE_SEGMENT.match(info.base_name)]
        keys = {key for info in folders for key in hive_values(info.base_name)}
        wanted = [info for info in folders if where.may_match(info.base_name)]
        if keys & set(where.keys) and len(wanted) <= MOST_LISTED_APART:
            for info in folders:
                seen.add(info.base_name)
            for info in here:
                if info not in folders:
                    yield info
                    if info.type == pafs.FileType.Directory and is_data(info.base_name):
                        yield from _walk(filesystem, info.path, where, seen)
            for info in wanted:
                yield from _walk(filesystem, info.path, where, seen)
            return
    yield from filesystem.get_file_info(pafs.FileSelector(directory, recursive=True))


def _leaf(source: Location, relative: str, infos: list[pafs.FileInfo]) -> Leaf:
    infos = sorted(infos, key=lambda info: info.path)
    files = tuple(source.join(info.path[len(source.path) :]) for info in infos)
    return Leaf(relative, files, sum(info.size or 0 for info in infos))


def _refuse_without_parquet(
    source: Location, relative: str, name: str, parquet: dict[str, list[pafs.FileInfo]]
) -> None:
    """A day of CSV among days of Parquet would be left out without a word."""
    last = relative.rsplit("/", 1)[-1]
    if not HIVE_SEGMENT.match(last) or any(f"{other}/".startswith(f"{relative}/") for other in parquet):
        return
    raise InputUnreadableError(
        f"The partition {source.join(relative).url!r} holds {name!r} and no Parquet file; write it as Parquet, or give "
        "what is no data a name that begins with '_'."
    )
