"""Opening what jobs published: the files, their accounts, and which of their columns a job added."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

# Every job adds these, one after the other.
_CONTRACT = ("status", "error_type", "error", "attempts")
# One of these stands before all others that a job adds: of generation, and of embedding.
_FIRST = (("response", "responses", "status"), ("embedding", "chunks", "chunk_index", "status"))


@dataclass(frozen=True)
class OutputFile:
    """One published file.

    Args:
        location: of it.
        relative: its path below the output that was asked for; empty for that one itself.
        manifest: from its footer.
        schema: of all its columns.
        prefix: put before the names of the columns that the job added.
    """

    location: Location
    relative: str
    manifest: PartitionManifest
    schema: pa.Schema
    prefix: str

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
        properties = (self.manifest.output_schema or {}).get("properties", {})
        names = (name.removeprefix(self.prefix) for name in self.schema.names if name.startswith(self.prefix))
        fields = tuple(name for name in names if name in properties)
        return fields or tuple(name for name in ("response", "responses") if self.has(name))

    @property
    def input_names(self) -> tuple[str, ...]:
        """The columns that were there before: a job's own stand at the end."""
        names = self.schema.names
        own = _FIRST[self.manifest.task == "embed"]
        first = min(names.index(self.prefix + name) for name in own if self.has(name))
        return tuple(names[:first])

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Stream columns by their names in the file.

        Raises:
            MissingColumnError: there is no such column.
            InputUnreadableError: the file is damaged.
        """
        if missing := [name for name in names if name not in self.schema.names]:
            raise MissingColumnError(
                f"The output {self.location.url!r} has no column {missing[0]!r}; it has "
                f"{', '.join(map(repr, self.schema.names))}."
            )
        try:
            with ParquetStream(self.location, list(dict.fromkeys(names))) as file:
                yield from file.batches()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise InputUnreadableError(f"The output {self.location.url!r} cannot be read: {error}.") from error


def open_output(
    path: str | os.PathLike[str], *, output_prefix: str | None = None, resolver: Resolver = resolve_location
) -> list[OutputFile]:
    """The files that jobs published at a path, in the order of their paths.

    Args:
        path: a file, or a directory of them.
        output_prefix: of the added columns; ``None``: of those that were added last.
        resolver: opens paths and URLs.

    Raises:
        InputNotFoundError: there is nothing.
        InputUnreadableError: a file there was not published by this package, or lacks its columns.
        ConfigurationError: it is a table.
    """
    source = resolver(os.fspath(path))
    if table_format(source.address) is not None:
        raise ConfigurationError(
            f"{source.url!r} is a table, and only outputs that are files are read here; query the table's columns "
            "status and error_type, or give the job an output_path of files."
        )
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


def _opened(location: Location, relative: str, output_prefix: str | None) -> OutputFile:
    published = read_published(location)
    if published is None:
        raise InputUnreadableError(
            f"{shown_address(location.address)!r} was not published by this package: its footer names no job. Give the "
            "path of an output."
        )
    prefixes = _prefixes(published.schema.names)
    if not prefixes or (output_prefix is not None and output_prefix not in prefixes):
        there = f"those there are {', '.join(map(repr, prefixes))}" if prefixes else "it has no column 'status'"
        raise ConfigurationError(
            f"The output {location.url!r} has no added columns with the prefix {output_prefix or ''!r} ({there}): "
            "correct output_prefix."
        )
    prefix = prefixes[-1] if output_prefix is None else output_prefix
    return OutputFile(location, relative, published.manifest, published.schema, prefix)


def _prefixes(names: Sequence[str]) -> list[str]:
    """Of an output of an output, the last is that of the job that wrote it."""
    prefixes = [name.removesuffix("status") for name in names if name.endswith("status")]
    return [prefix for prefix in prefixes if all(prefix + name in names for name in _CONTRACT)]


def is_text(kind: pa.DataType) -> bool:
    """Whether values are texts, stored plainly or as a dictionary."""
    kind = kind.value_type if pat.is_dictionary(kind) else kind
    return bool(pat.is_string(kind) or pat.is_large_string(kind) or pat.is_string_view(kind))
