"""Opening what jobs published, files or partitions of tables: their accounts, and which columns a job added."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.types as pat

from airflow_mullama.errors import ConfigurationError, InputNotFoundError, InputUnreadableError, MissingColumnError
from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.storage.addresses import shown_address, table_format
from airflow_mullama.storage.filesystems import Location, Resolver, resolve_location
from airflow_mullama.storage.listing import KeysSeen, list_leaves
from airflow_mullama.storage.parquet.output import read_published
from airflow_mullama.storage.parquet.stream import ParquetStream
from airflow_mullama.storage.tables.formats import open_table_writer
from airflow_mullama.storage.tables.keys import described, is_pinned, normalised, split_address, with_values
from airflow_mullama.storage.tables.output import TableOutput
from airflow_mullama.storage.tables.table import not_there

# Every job adds these, one after the other.
_CONTRACT = ("status", "error_type", "error", "attempts")
# One of these stands before all others that a job adds: of generation, and of embedding.
_FIRST = (("response", "responses", "status"), ("embedding", "chunks", "chunk_index", "status"))


@dataclass(frozen=True)
class OutputFile:
    """One published file, or a partition of a table.

    Args:
        location: of it.
        relative: its path below the output that was asked for; empty for that one itself.
        manifest: of the rows in it.
        schema: of all its columns.
        prefix: put before the names of the columns that the job added.
        read: streams columns by their names.
    """

    location: Location
    relative: str
    manifest: PartitionManifest
    schema: pa.Schema
    prefix: str
    read: Callable[[list[str]], Iterator[pa.RecordBatch]]

    def has(self, name: str) -> bool:
        """Whether the job added a column of this name, without prefix."""
        return self.prefix + name in self.schema.names

    def require_answer(self, name: str) -> None:
        """Refuse an answer that the job did not give.

        Raises:
            ConfigurationError: names those that there are.
        """
        if not self.has(name):
            raise ConfigurationError(
                f"The output {self.location.url!r} has no answer {name!r}; it has {', '.join(self.answer_names)}."
            )

    @property
    def answer_names(self) -> tuple[str, ...]:
        """What the job answered, without prefix: a vector, a label, typed fields, or else the response's text."""
        if self.manifest.task == "embed":  # an input may have columns of any of these names
            return tuple(name for name in ("embedding", "chunks") if self.has(name))[:1]
        names = (name.removeprefix(self.prefix) for name in self.schema.names if name.startswith(self.prefix))
        fields = tuple(name for name in names if name in self._properties)
        return fields or tuple(name for name in ("response", "responses") if self.has(name))

    def has_few_values(self, answer: str) -> bool:
        """Whether an answer is one of a few values, so that each one's share says something."""
        kind = self.schema.field(self.prefix + answer).type
        closed = pat.is_dictionary(kind) or "enum" in self._properties.get(answer, {})  # tables have no dictionaries
        return bool(answer == "label" or closed or pat.is_boolean(kind))

    @property
    def _properties(self) -> dict[str, Any]:
        return dict((self.manifest.output_schema or {}).get("properties", {}))

    @property
    def input_names(self) -> tuple[str, ...]:
        """The columns that were there before: a job's own stand at the end."""
        names = self.schema.names
        own = _FIRST[self.manifest.task == "embed"]
        first = min(names.index(self.prefix + name) for name in own if self.has(name))
        return tuple(names[:first])

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Stream columns by their names in the output.

        Raises:
            MissingColumnError: there is no such column.
            InputUnreadableError: a file is damaged.
        """
        if missing := [name for name in names if name not in self.schema.names]:
            raise MissingColumnError(
                f"The output {self.location.url!r} has no column {missing[0]!r}; it has "
                f"{', '.join(map(repr, self.schema.names))}."
            )
        yield from self.read(list(dict.fromkeys(names)))


def open_output(
    path: str | os.PathLike[str], *, output_prefix: str | None = None, resolver: Resolver = resolve_location
) -> list[OutputFile]:
    """The files or partitions that jobs published at a path, in the order of their paths.

    Args:
        path: a file, a directory of them, or a table.
        output_prefix: of the added columns; ``None``: of those that were added last.
        resolver: opens paths and URLs.

    Raises:
        InputNotFoundError: there is nothing.
        InputUnreadableError: something there was not published by this package.
        ConfigurationError: it lacks the columns of a job, or is an older state of a table.
        DependencyMissingError: the package for a table's format is not installed.
        TableFormatError, StorageUnavailableError: a table cannot be read.
    """
    source = resolver(os.fspath(path))
    if table_format(source.address) is not None:
        return _open_table(source, output_prefix)
    kind = source.info().type
    if kind == pafs.FileType.NotFound:
        raise InputNotFoundError(f"There is no output at {source.url!r}: check the path.")
    if kind == pafs.FileType.File:
        files = [("", source)]
    else:
        files = [
            ("/".join(filter(None, (leaf.relative, file.name))), file)
            for leaf in list_leaves(source, None, KeysSeen())
            for file in leaf.files
        ]
        if not files:
            raise InputNotFoundError(f"The directory {source.url!r} holds no output: check the path.")
    return [_opened(file, relative, output_prefix) for relative, file in files]


def _open_table(address: Location, output_prefix: str | None) -> list[OutputFile]:
    root, values = split_address(address)
    if is_pinned(root):
        raise ConfigurationError(
            f"{address.url!r} names a state of the table, and what jobs published is looked at as it is now; leave the "
            "state out."
        )
    writer = open_table_writer(root)
    table = writer.current()
    if table is None:
        raise InputNotFoundError(f"There is no table at {root.url!r}: check the address.")
    partitions = table.partitions(values=normalised(values, table.schema))
    if not partitions:
        raise not_there(root, values)
    found = []
    for partition in partitions:
        location = with_values(root, partition.values)
        published = TableOutput(writer, location, partition.values).published_of(table, partition)
        if published is None:
            raise InputUnreadableError(
                f"{location.url!r} was not published by this package, or rows were added to it or deleted from it "
                "since. Give the address of an output."
            )
        prefix = _prefix(location, published.schema, output_prefix)
        relative = described(partition.values)
        batches = published.source.batches
        found.append(OutputFile(location, relative, published.manifest, published.schema, prefix, batches))
    return found


def _opened(location: Location, relative: str, output_prefix: str | None) -> OutputFile:
    published = read_published(location)
    if published is None:
        raise InputUnreadableError(
            f"{shown_address(location.address)!r} was not published by this package: its footer names no job. Give the "
            "path of an output."
        )
    prefix = _prefix(location, published.schema, output_prefix)
    batches = partial(_file_batches, location)
    return OutputFile(location, relative, published.manifest, published.schema, prefix, batches)


def _file_batches(location: Location, names: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        with ParquetStream(location, names) as file:
            yield from file.batches()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputUnreadableError(f"The output {location.url!r} cannot be read: {error}.") from error


def _prefix(location: Location, schema: pa.Schema, wanted: str | None) -> str:
    """Before the names of the columns that a job added."""
    prefixes = _prefixes(schema.names)
    if not prefixes or (wanted is not None and wanted not in prefixes):
        there = f"those there are {', '.join(map(repr, prefixes))}" if prefixes else "it has no column 'status'"
        raise ConfigurationError(
            f"The output {location.url!r} has no added columns with the prefix {wanted or ''!r} ({there}): correct "
            "output_prefix."
        )
    return prefixes[-1] if wanted is None else wanted


def _prefixes(names: Sequence[str]) -> list[str]:
    """Of an output of an output, the last is that of the job that wrote it."""
    prefixes = [name.removesuffix("status") for name in names if name.endswith("status")]
    return [prefix for prefix in prefixes if all(prefix + name in names for name in _CONTRACT)]


def is_text(kind: pa.DataType) -> bool:
    """Whether values are texts, stored plainly or as a dictionary."""
    kind = kind.value_type if pat.is_dictionary(kind) else kind
    return bool(pat.is_string(kind) or pat.is_large_string(kind) or pat.is_string_view(kind))
