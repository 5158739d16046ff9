"""Finding the data files below a directory, without listing what a filter rules out."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.fs as pafs

from airflow_mullama.background import map_ahead
from airflow_mullama.errors import InputUnreadableError, StorageUnavailableError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import data_format, hive_values, is_data, is_hive_segment
from airflow_mullama.storage.hive_filter import HiveFilter
from airflow_mullama.storage.links import Entry, LinkedTree
from airflow_mullama.storage.table_formats import refuse_marker

# A filter that leaves more directories than this is applied after listing everything: fewer, larger requests.
MOST_LISTED_APART = 64
# Of a store, each costs two requests.
OPENED_AT_ONCE = 16
# The second is of files whose footer is encrypted: they are Parquet, and refused as such.
PARQUET_MAGIC = (b"PAR1", b"PARE")
SMALLEST_PARQUET = 12


@dataclass(frozen=True)
class Leaf:
    """A directory that holds data files directly.

    Args:
        relative: its path below the directory that was listed; empty for that one itself.
        files: the data files in it, in the order of their names.
        size: bytes of them.
    """

    relative: str
    files: tuple[Location, ...]
    size: int


@dataclass
class KeysSeen:
    """What was found while listing, wanted or not: for a message that says what there is.

    Args:
        values: of each hive key.
        reached_files: whether the listing got down to a data file.
        no_tables: paths of directories that no table format keeps.
    """

    values: dict[str, set[str | None]] = field(default_factory=dict)
    reached_files: bool = False
    no_tables: set[str] = field(default_factory=set)

    def add(self, path: str) -> None:
        """Take the keys and values of a path."""
        for key, value in hive_values(path).items():
            self.values.setdefault(key, set()).add(value)


def list_leaves(source: Location, where: HiveFilter | None, seen: KeysSeen) -> list[Leaf]:
    """The directories at or below ``source`` that hold data files, in order of path.

    Args:
        source: a directory.
        where: leaves out what it rules out.
        seen: is told of everything found, wanted or not.

    Raises:
        InputUnreadableError: a hive directory holds files, and none is data.
        StorageUnavailableError: the filesystem does not answer.
    """
    data: dict[str, list[Entry]] = {}
    without_suffix: dict[str, list[Entry]] = {}
    foreign: dict[str, str] = {}
    values_of_source = hive_values(source.path)
    try:
        for entry in _entries(source, where, seen):
            *directories, name = entry.path[len(source.path.rstrip("/")) + 1 :].split("/")
            refuse_marker(source, [*directories, name])
            if not entry.is_file or not all(map(is_data, [*directories, name])):
                continue
            if "" in directories:
                raise InputUnreadableError(
                    f"{source.url!r} holds the key {entry.path!r} with an empty name between two slashes, which Arrow "
                    "cannot open; move the object to a key without one."
                )
            relative = "/".join(directories)
            seen.reached_files = True
            seen.add(relative)
            if where is not None and not where.matches({**values_of_source, **hive_values(relative)}):
                continue
            if data_format(name) is not None:
                data.setdefault(relative, []).append(entry)
            elif "." not in name:
                without_suffix.setdefault(relative, []).append(entry)
            else:
                foreign.setdefault(relative, name)
        unnamed = [(relative, entry) for relative, entries in without_suffix.items() for entry in entries]
        at_once = 1 if source.is_local else OPENED_AT_ONCE
        begins = map_ahead(lambda one: begins_as_parquet(source.filesystem, one[1]), unnamed, at_once, "mullama-list")
        for (relative, entry), is_parquet in zip(unnamed, begins, strict=True):
            if is_parquet:
                data.setdefault(relative, []).append(entry)
            else:
                foreign.setdefault(relative, entry.name)
    except (OSError, pa.ArrowException) as error:
        raise StorageUnavailableError(f"The directory {source.url!r} cannot be listed: {error}.") from error
    _refuse_days_without_data(source, foreign, data)
    return [_leaf(source, relative, data[relative]) for relative in sorted(data)]


def begins_as_parquet(filesystem: pafs.FileSystem, entry: Entry) -> bool:
    """Whether a file without a suffix (Hive and Impala write ``000000_0``) begins as Parquet does."""
    if entry.size < SMALLEST_PARQUET:
        return False
    with filesystem.open_input_file(entry.path) as file:
        return file.read(4) in PARQUET_MAGIC


def _entries(source: Location, where: HiveFilter | None, seen: KeysSeen) -> Iterator[Entry]:
    """Everything below the source but the hive directories that ``where`` rules out; each real file once."""
    if not source.is_local:
        yield from _walk(partial(_children, source.filesystem), source, where, seen)
        return
    tree = LinkedTree(source.path)
    yield from _walk(tree.children, source, where, seen)
    for entry in tree.further():
        yield entry
        if not entry.is_file and (where is None or where.may_match(entry.name)):
            yield from _walk(tree.children, source, where, seen, entry.path)
    tree.tell_repeated()


def _children(filesystem: pafs.FileSystem, directory: str) -> list[Entry]:
    return [_entry(info) for info in filesystem.get_file_info(pafs.FileSelector(directory))]


def _entry(info: pafs.FileInfo) -> Entry:
    return Entry(info.path, info.type == pafs.FileType.File, info.size or 0)


def _walk(
    children: Callable[[str], list[Entry]],
    source: Location,
    where: HiveFilter | None,
    seen: KeysSeen,
    directory: str | None = None,
) -> Iterator[Entry]:
    directory = source.path if directory is None else directory
    if where is None and not source.is_local:  # one request for all of it
        yield from map(_entry, source.filesystem.get_file_info(pafs.FileSelector(directory, recursive=True)))
        return
    here = children(directory)
    hive = [entry for entry in here if not entry.is_file and is_hive_segment(entry.name) and is_data(entry.name)]
    set_of_hive, wanted = set(hive), hive
    if where is not None:
        keys = {key for entry in hive for key in hive_values(entry.name)}
        wanted = [entry for entry in hive if where.may_match(entry.name)]
        if not keys & set(where.keys) or len(wanted) > MOST_LISTED_APART:
            if not source.is_local:
                yield from map(_entry, source.filesystem.get_file_info(pafs.FileSelector(directory, recursive=True)))
                return
            wanted = hive
        for entry in hive:
            seen.add(entry.name)
    for entry in here:
        if entry not in set_of_hive:
            yield entry
            if not entry.is_file and is_data(entry.name):
                yield from _walk(children, source, where, seen, entry.path)
    for entry in wanted:
        yield from _walk(children, source, where, seen, entry.path)


def _leaf(source: Location, relative: str, entries: list[Entry]) -> Leaf:
    entries = sorted(entries, key=lambda entry: entry.path)
    files = tuple(source.join(entry.path[len(source.path) :]) for entry in entries)
    return Leaf(relative, files, sum(entry.size for entry in entries))


def _refuse_days_without_data(source: Location, foreign: Mapping[str, str], data: Collection[str]) -> None:
    """A day of Avro among days of Parquet would be left out without a word."""
    paths = sorted(f"{relative}/" for relative in data)
    for relative, name in sorted(foreign.items()):
        after = bisect.bisect_left(paths, f"{relative}/")
        holds_data = after < len(paths) and paths[after].startswith(f"{relative}/")
        if is_hive_segment(relative.rsplit("/", 1)[-1]) and not holds_data:
            raise InputUnreadableError(
                f"The partition {source.join(relative).url!r} holds {name!r} and no file that is read; write it as "
                "Parquet, or give what is not data a name that begins with '_'."
            )
