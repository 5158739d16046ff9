"""Directories that a table format keeps: its log, and not the folder, says which files and rows count.

Read as plain Parquet, such a directory gives deleted rows and old versions too, so it is refused; given as a table
(``delta:///path``, ``iceberg://catalog/namespace.table``), it is read as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.fs as pafs

from airflow_mullama.background import map_ahead
from airflow_mullama.errors import StorageUnavailableError, TableFormatError
from airflow_mullama.storage.addresses import scheme_of
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import is_hive_segment

# Directories that only this format's tables have.
LOGS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
ICEBERG_FOLDER, ICEBERG_SUFFIXES = "metadata", (".metadata.json", ".metadata.json.gz", ".gz.metadata.json")
# Where Iceberg puts its data files, beside the metadata.
ICEBERG_DATA = "data"


def refuse_marker(table: Location, segments: list[str]) -> None:
    """Refuse what is come across below a directory if it shows that a table format keeps this.

    Args:
        table: the directory.
        segments: of a path below it.

    Raises:
        TableFormatError: names the table, and says what to do.
    """
    for place, segment in enumerate(segments):
        if segment in LOGS:
            raise _error(table.join(*segments[:place]) if place else table, LOGS[segment])
    if len(segments) > 1 and segments[-2] == ICEBERG_FOLDER and segments[-1].endswith(ICEBERG_SUFFIXES):
        raise _error(table.join(*segments[:-2]) if len(segments) > 2 else table, "Iceberg")


def refuse_part_of_table(folder: Location, known: set[str]) -> None:
    """Refuse a folder that lies in a table's directory: one of its partitions, or where its data files are.

    Args:
        folder: of what is to be read.
        known: paths of folders that are not tables; more are added.

    Raises:
        TableFormatError: names the table, and says what to do.
        StorageUnavailableError: the filesystem does not answer.
    """
    for candidate in _may_be_tables(folder):
        if candidate.path in known:
            return
        try:
            _refuse_table(candidate)
        except (OSError, pa.ArrowException) as error:
            raise StorageUnavailableError(f"{candidate.url!r} cannot be looked up: {error}.") from error
        known.add(candidate.path)


def _may_be_tables(folder: Location) -> Iterator[Location]:
    """The folder, and those above it as far as tables are split into partitions."""
    yield folder
    while (is_hive_segment(folder.name) or folder.name == ICEBERG_DATA) and folder.path.strip("/").count("/"):
        folder = folder.parent
        yield folder


def _refuse_table(folder: Location) -> None:
    filesystem = folder.filesystem
    if not folder.has_folders:
        for entries in map_ahead(partial(_below, folder), [*LOGS, ICEBERG_FOLDER], 1 + len(LOGS), "mullama-look"):
            for info in entries:
                refuse_marker(folder, info.path[len(folder.path) + 1 :].split("/"))
        return
    for name, info in zip(LOGS, filesystem.get_file_info([f"{folder.path}/{name}" for name in LOGS]), strict=True):
        if info.type == pafs.FileType.Directory:
            raise _error(folder, LOGS[name])
    metadata = pafs.FileSelector(f"{folder.path}/{ICEBERG_FOLDER}", allow_not_found=True)
    if folder.filesystem.get_file_info(metadata.base_dir).type == pafs.FileType.Directory:
        for info in filesystem.get_file_info(metadata):
            refuse_marker(folder, [ICEBERG_FOLDER, info.base_name])


def _below(folder: Location, name: str) -> list[pafs.FileInfo]:
    return list(folder.filesystem.get_file_info(pafs.FileSelector(f"{folder.path}/{name}", allow_not_found=True)))


def _error(table: Location, name: str) -> TableFormatError:
    return TableFormatError(
        f"{table.url!r} is a table of {name}, whose log says which of its files and rows count; read as a folder, it "
        f"would give deleted and older rows too. {_remedy(table, name)}"
    )


def _remedy(table: Location, name: str) -> str:
    if name == "Delta Lake":
        scheme = scheme_of(table.url)
        address = f"delta+{table.url}" if scheme not in ("", "file") else f"delta://{table.path}"
        return f"Give it as a table: {address!r} (docs/tables.md)."
    if name == "Iceberg":
        return "Give it as a table: 'iceberg://catalog/namespace.table' (docs/tables.md)."
    return "Write the rows that you want to Parquet and give that as input_path, or return them from a decorated task."
