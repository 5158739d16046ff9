"""Publishing a partition of a table: its rows in a new data file, which one commit puts in place of what was there."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mullama.errors import OutputChangedError, StorageUnavailableError, UnsupportedColumnError
from airflow_mullama.fail_points import reached
from airflow_mullama.manifest import FOOTER_KEY, PartitionManifest
from airflow_mullama.rows import ResultColumns
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import HiveValues
from airflow_mullama.storage.parquet.output import joined
from airflow_mullama.storage.parquet.output_format import writer_options
from airflow_mullama.storage.parquet.vector_columns import stored_type
from airflow_mullama.storage.parquet.whole_file import whole_file
from airflow_mullama.storage.partition_input import PartitionInput
from airflow_mullama.storage.partition_output import NewOutput
from airflow_mullama.storage.staging.commit import publish_file
from airflow_mullama.storage.staging.stage import Stage
from airflow_mullama.storage.tables.input import TableInput
from airflow_mullama.storage.tables.keys import key_segments, normalised
from airflow_mullama.storage.tables.published import PublishedPartition, manifest_in
from airflow_mullama.storage.tables.schemas import file_identities
from airflow_mullama.storage.tables.table import Table, TablePartition, partition_of
from airflow_mullama.storage.tables.types import TableTypes, to_table
from airflow_mullama.storage.tables.unpublished import PREFIX, SUFFIX, UnpublishedFiles

log = logging.getLogger(__name__)

COMMIT_TRIES = 10
LONGEST_NAME = 200


class CommitConflictError(Exception):
    """Somebody else's commit came first: what is there must be looked at again."""


@dataclass(frozen=True)
class StoredSchema:
    """What a new data file is to have.

    Args:
        schema: of the file.
        names: what the table calls its columns.
    """

    schema: pa.Schema
    names: Sequence[str]


@dataclass(frozen=True)
class NewFile:
    """A data file that is to be committed.

    Args:
        location: where it lies.
        size: its bytes.
        metadata: its footer.
        manifest: of the rows in it.
    """

    location: Location
    size: int
    metadata: pq.FileMetaData
    manifest: PartitionManifest


class TableWriter(Protocol):
    """What a format knows of writing to one of its tables."""

    @property
    def types(self) -> TableTypes:
        """Of the format."""
        ...

    @property
    def folder(self) -> Location:
        """Where the table's files lie; it need not be there yet."""
        ...

    def current(self) -> Table | None:
        """The table as it is now; ``None`` where there is none yet."""
        ...

    def require_writable(self, schema: pa.Schema, values: HiveValues) -> None:
        """Find out whether rows of this schema may be written to the partition of these values.

        Raises:
            UnsupportedColumnError, OutputExistsError, TableFormatError, ConfigurationError
        """
        ...

    def prepare(self, schema: pa.Schema, values: HiveValues) -> StoredSchema:
        """Make the table ready for a data file, as far as that is not done by the commit; returns what it must have."""
        ...

    def data_location(self, values: HiveValues, name: str) -> Location:
        """Where a new data file of this name goes."""
        ...

    def commit(self, file: NewFile, schema: pa.Schema, values: HiveValues, replaced: TablePartition | None) -> None:
        """Put a data file in the place of a partition, in one commit.

        Args:
            file: lies where it belongs.
            schema: of the rows; columns that the table does not have are added to it.
            values: of the partition.
            replaced: the partition as it was when it was looked at.

        Raises:
            CommitConflictError: it is another by now, or somebody else's commit came first.
        """
        ...

    def committed_manifest(self, values: HiveValues) -> PartitionManifest | None:
        """The manifest in the newest commit of ours to a partition; ``None`` if the table remembers none."""
        ...


@dataclass(frozen=True)
class TableOutput:
    """One partition of a table as an output.

    Args:
        writer: of the table.
        location: the partition's address.
        values: of the table's partition keys.
    """

    writer: TableWriter
    location: Location
    values: HiveValues

    def exists(self) -> bool:
        """Whether the table has any file there."""
        return self._look() is not None

    def version(self) -> str | None:
        """Which files the partition has."""
        return _version(self._look())

    def published(self) -> PublishedPartition | None:
        """What the partition holds, if this package published it and no row was added or deleted since.

        The manifest stands in the footer of the data file. If somebody has written that anew, as a compaction does, it
        is looked for in the table's commits.
        """
        return self.published_in(self.writer.current())

    def published_in(self, table: Table | None) -> PublishedPartition | None:
        """The same of a state of the table that is at hand, so that it is not asked for each of many partitions."""
        partition = None if table is None else self._partition(table)
        return None if table is None or partition is None else self.published_of(table, partition)

    def published_of(self, table: Table, partition: TablePartition) -> PublishedPartition | None:
        """The same of the partition as it was found, so that its files are not looked for again."""
        source = TableInput(table.schema, partition)
        if len(partition.files) == 1 and not len(partition.files[0].deleted()):
            manifest = manifest_in(partition.files[0])
            if manifest is not None:
                return PublishedPartition(manifest, True, source, self.writer.types)
        manifest = self.writer.committed_manifest(partition.values)
        if manifest is None or manifest.rows_of_output != source.rows:
            return None
        return PublishedPartition(manifest, False, source, self.writer.types)

    def require_writable(self, source: PartitionInput, columns: ResultColumns, output_prefix: str) -> None:
        """See :class:`airflow_mullama.storage.partition_output.PartitionOutput`."""
        self.writer.require_writable(self._rows_schema(source, columns, output_prefix), self.values)

    def stage(self, fingerprint: str, schema: pa.Schema) -> Stage:
        """In a folder of the table that both formats and their readers leave alone."""
        return Stage(self.writer.folder.join(self._name), fingerprint, schema)

    def tidy(self) -> None:
        """Remove what killed attempts left, as far as that is certain."""
        published = self.published()
        self._tidy(None if published is None else published.manifest.fingerprint)

    def write(self, new: NewOutput) -> int:
        """See :class:`airflow_mullama.storage.partition_output.PartitionOutput`."""
        source, columns, output_prefix = new.source, new.columns, new.output_prefix
        schema = self._rows_schema(source, columns, output_prefix)
        stored = self.writer.prepare(schema, self.values)
        plain = pa.schema([*source.schema, *_added(columns, output_prefix)])
        made: list[PartitionManifest] = []

        def notes() -> dict[bytes, bytes]:
            made.append(new.manifest())
            return {FOOTER_KEY: made[-1].to_footer()}

        name = f"{PREFIX}{os.urandom(12).hex()}{SUFFIX}"
        target = self.writer.data_location(self.values, name)
        with whole_file(
            target=target,
            temporary=new.temporary,
            tables=self._stored_rows(joined(new, plain), schema, stored),
            schema=stored.schema,
            options=lambda first: writer_options(stored.schema, first),
            rows=lambda: source.rows,
            notes=notes,
        ) as file:
            reached("publish")
            data = NewFile(target, file.size, pq.read_metadata(file.path), made[-1])
            self._unpublished.announce(target, data.manifest.fingerprint)
            publish_file(file.path, target)
            reached("placed")
            self._commit(data, schema, new.replaces)
        self._tidy(data.manifest.fingerprint)
        return data.size

    def _commit(self, new: NewFile, schema: pa.Schema, version: str | None) -> None:
        for _ in range(COMMIT_TRIES):
            replaced = self._look()
            if replaced is not None and any(file.location.path == new.location.path for file in replaced.files):
                return  # it was committed, and the answer was lost on the way
            if _version(replaced) != version:
                self._unpublished.withdraw(new.location)
                raise OutputChangedError(
                    f"What the partition {self.location.url!r} holds is not what this attempt found there when it "
                    "began."
                )
            try:
                self.writer.commit(new, schema, self.values, replaced)
            except CommitConflictError as error:
                log.info("%s: another commit came first (%s); looking again", self.location, error)
            else:
                return
        self._unpublished.withdraw(new.location)
        raise StorageUnavailableError(
            f"The table of {self.location.url!r} was committed to by others {COMMIT_TRIES} times while this partition "
            "was to be; what is finished is kept, and the next attempt only writes."
        )

    @property
    def _name(self) -> str:
        """What the partition is called, as the name of one folder."""
        name = ",".join(key_segments(self.values)) or "table"
        return name if len(name) <= LONGEST_NAME else hashlib.sha256(name.encode()).hexdigest()

    @property
    def _unpublished(self) -> UnpublishedFiles:
        return UnpublishedFiles(self.writer.folder, self._name)

    def _tidy(self, fingerprint: str | None) -> None:
        partition = self._look()
        files = () if partition is None else partition.files
        self._unpublished.tidy({file.location.path for file in files}, fingerprint)

    def _look(self) -> TablePartition | None:
        table = self.writer.current()
        return None if table is None else self._partition(table)

    def _partition(self, table: Table) -> TablePartition | None:
        return partition_of(table, normalised(self.values, table.schema))

    def _rows_schema(self, source: PartitionInput, columns: ResultColumns, output_prefix: str) -> pa.Schema:
        """All columns as the table has them: the input's, what it is partitioned by, and those that the job adds."""
        keys = [pa.field(key, pa.string()) for key in self.values if key not in source.schema.names]
        return self.writer.types.schema(pa.schema([*source.schema, *keys, *_added(columns, output_prefix)]))

    def _stored_rows(self, tables: Iterator[pa.Table], schema: pa.Schema, stored: StoredSchema) -> Iterator[pa.Table]:
        """Rows as the data file has them: its columns, in its order, under its names."""
        values = {
            key: pa.scalar(value).cast(schema.field(key).type)
            for key, value in normalised(self.values, schema).items()
            if key in schema.names
        }
        for table in tables:
            rows = table.num_rows
            for key in values.keys() & set(table.column_names):
                self._refuse_other_partition(key, values[key], to_table(table.column(key), schema.field(key).type, key))
            columns = []
            for name, field in zip(stored.names, stored.schema, strict=True):
                if name in table.column_names:
                    column = to_table(table.column(name), field.type, name)
                else:
                    value = values[name].cast(field.type) if name in values else pa.scalar(None, field.type)
                    column = pa.chunked_array([pa.repeat(value, rows)], field.type)
                columns.append(column)
            yield pa.table(columns, schema=stored.schema)

    def _refuse_other_partition(self, key: str, value: pa.Scalar, column: pa.ChunkedArray) -> None:
        inside = pc.is_null(column) if not value.is_valid else pc.fill_null(pc.equal(column, value), False)
        if not pc.all(inside).as_py():
            other = column.filter(pc.invert(inside))[0].as_py()
            raise UnsupportedColumnError(
                f"The rows go to the partition {self.location.url!r} and have {other!r} in the column {key!r} that the "
                "table is partitioned by; give each partition's rows as an input of their own."
            )


def _version(partition: TablePartition | None) -> str | None:
    return None if partition is None else "|".join(sorted(file_identities(partition)))


def _added(columns: ResultColumns, output_prefix: str) -> list[pa.Field]:
    return [field.with_name(output_prefix + field.name).with_type(stored_type(field.type)) for field in columns.fields]
