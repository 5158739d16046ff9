"""Writing to an Iceberg table: one data file, and one snapshot that puts it in the place of a partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mullama.errors import ConfigurationError, StorageUnavailableError, TableFormatError
from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import HiveValues
from airflow_mullama.storage.iceberg.columns import ICEBERG_TYPES, arrow_schema
from airflow_mullama.storage.iceberg.table import IcebergHandle, IcebergState, talking_to
from airflow_mullama.storage.tables.keys import key_segments, normalised
from airflow_mullama.storage.tables.output import CommitConflictError, NewFile, StoredSchema
from airflow_mullama.storage.tables.schemas import file_identities, refuse_other_keys, refuse_other_types
from airflow_mullama.storage.tables.table import TablePartition, partition_of

if TYPE_CHECKING:
    from pyiceberg.table import Table

NOTE_PARTITION, NOTE_FINGERPRINT = "airflow_mullama.partition", "airflow_mullama.fingerprint"
NOTE_MANIFEST = "airflow_mullama.manifest"
SCHEMA_TRIES = 5
RETRIES = "commit.retry.num-retries"


class IcebergWriter:
    """Writes to one Iceberg table.

    Args:
        location: its catalog and its name.

    Raises:
        DependencyMissingError, ConfigurationError
    """

    types = ICEBERG_TYPES

    def __init__(self, location: Location) -> None:
        self.location = location
        self._handle = IcebergHandle(location)

    @property
    def folder(self) -> Location:
        """Where the table's files lie: the catalog says so when it has made the table.

        Raises:
            StorageUnavailableError: the table is not there any more.
        """
        table = self._table()
        return table.place(table.client.location())

    def current(self) -> IcebergState | None:
        """The table as it is now."""
        return self._handle.current()

    def _table(self) -> IcebergState:
        table = self.current()
        if table is None:
            raise StorageUnavailableError(f"The table {self.location.url!r} was dropped while it was to be written.")
        return table

    def require_writable(self, schema: pa.Schema, values: HiveValues) -> None:
        """Find out whether rows of this schema may be written to the partition of these values; an empty table is made.

        Raises:
            UnsupportedColumnError, OutputExistsError: see :class:`airflow_mullama.storage.tables.output.TableWriter`.
            TableFormatError: it is partitioned by more than columns.
            ConfigurationError: it is partitioned otherwise, or its namespace is not there.
        """
        normalised(values, schema)
        if self.current() is None:
            self._create(schema, values)
        table = self._table()
        others = [str(one.transform) for one in table.spec.fields if str(one.transform) not in ("identity", "void")]
        if others:
            raise TableFormatError(
                f"The table {self.location.url!r} is partitioned by {', '.join(others)}, and only tables that are "
                "partitioned by columns as they are can be written; give another output_path."
            )
        refuse_other_keys(self.location, table.keys, values)
        normalised(values, table.schema)
        refuse_other_types(self.location, table.schema, schema)

    def _create(self, schema: pa.Schema, values: HiveValues) -> None:
        from pyiceberg.exceptions import NoSuchNamespaceError, TableAlreadyExistsError

        with talking_to(self.location):
            try:
                with self._handle.catalog.create_table_transaction(self._handle.name, schema=schema) as transaction:
                    if values:
                        with transaction.update_spec() as spec:
                            for key in values:
                                spec.add_identity(key)
            except TableAlreadyExistsError:
                return  # another attempt was first
            except NoSuchNamespaceError as error:
                raise ConfigurationError(
                    f"The catalog {self._handle.catalog_name!r} has no namespace for {self.location.url!r}; create it "
                    "first."
                ) from error

    def prepare(self, schema: pa.Schema, values: HiveValues) -> StoredSchema:
        """Add the columns that the table lacks, whose ids a data file must have."""
        from pyiceberg.exceptions import CommitFailedException
        from pyiceberg.io.pyarrow import schema_to_pyarrow
        from pyiceberg.schema import sanitize_column_names

        for _ in range(SCHEMA_TRIES):
            table = self._table()
            missing = [field for field in schema if field.name not in table.schema.names]
            if not missing:
                break
            client = self._handle.load()
            try:
                with talking_to(self.location), (client or table.client).update_schema() as update:
                    update.union_by_name(pa.schema(missing))
            except CommitFailedException:
                continue
        table = self._table()
        stored = sanitize_column_names(table.client.schema())
        return StoredSchema(schema_to_pyarrow(stored, include_field_ids=True), table.schema.names)

    def data_location(self, values: HiveValues, name: str) -> Location:
        """Where a new data file of this name goes, as the table's properties say."""
        table = self._table()
        path = table.client.location_provider().new_data_location(name, _partition_key(table, values))
        return table.place(path)

    def commit(self, file: NewFile, schema: pa.Schema, values: HiveValues, replaced: TablePartition | None) -> None:
        """Put a data file in the place of a partition, in one snapshot.

        Raises:
            CommitConflictError: it is another by now, or somebody else's commit came first.
            StorageUnavailableError
        """
        from pyiceberg.exceptions import CommitFailedException, ValidationException

        client = self._handle.load()
        if client is None:
            raise StorageUnavailableError(f"The table {self.location.url!r} was dropped while it was to be written.")
        table = IcebergState(self.location, client)
        there = partition_of(table, normalised(values, table.schema))
        if file_identities(there) != file_identities(replaced):
            raise CommitConflictError("the partition was changed")
        self._try_once(client)
        partition = "/".join(key_segments(normalised(values, table.schema)))
        notes = {
            NOTE_PARTITION: partition,
            NOTE_FINGERPRINT: file.manifest.fingerprint,
            NOTE_MANIFEST: file.manifest.to_footer().decode(),
        }
        try:
            with talking_to(self.location):
                transaction = client.transaction()
                update = transaction.update_snapshot(snapshot_properties=notes)
                if there is None:
                    producer: Any = update.fast_append()
                else:
                    producer = update.overwrite()
                    for old in there.files:
                        producer.delete_data_file(table.data_files[old.location.address])
                producer.append_data_file(_data_file(table, file, values))
                producer.commit()
                transaction.commit_transaction()
        except (CommitFailedException, ValidationException) as error:
            raise CommitConflictError(str(error)) from error

    def _try_once(self, client: Table) -> None:
        """Let pyiceberg not try again by itself: what is there must be looked at before."""
        properties = {**client.metadata.properties, RETRIES: "0"}
        client.metadata = client.metadata.model_copy(update={"properties": properties})

    def committed_manifest(self, values: HiveValues) -> PartitionManifest | None:
        """The manifest in the newest snapshot of ours of a partition, as long as the table has it."""
        table = self.current()
        if table is None:
            return None
        partition = "/".join(key_segments(values))
        for snapshot in reversed(table.client.snapshots()):
            notes = snapshot.summary.additional_properties if snapshot.summary else {}
            if notes.get(NOTE_PARTITION) == partition:
                try:
                    return PartitionManifest.from_footer(notes[NOTE_MANIFEST].encode())
                except (ValueError, KeyError, TypeError):
                    return None
        return None


def _partition_key(table: IcebergState, values: HiveValues) -> Any:
    from pyiceberg.partitioning import PartitionFieldValue, PartitionKey

    if not table.keys:
        return None
    schema = arrow_schema(table.client.schema())
    typed = {
        key: pa.scalar(value, pa.string()).cast(schema.field(key).type).as_py()
        for key, value in normalised(values, schema).items()
    }
    fields = [PartitionFieldValue(field, typed.get(field.name)) for field in table.spec.fields]
    return PartitionKey(field_values=fields, partition_spec=table.spec, schema=table.client.schema())


def _data_file(table: IcebergState, file: NewFile, values: HiveValues) -> Any:
    from pyiceberg.io.pyarrow import (
        compute_statistics_plan,
        data_file_statistics_from_parquet_metadata,
        parquet_path_to_id_mapping,
    )
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
    from pyiceberg.schema import sanitize_column_names
    from pyiceberg.typedef import Record

    schema = sanitize_column_names(table.client.schema())
    statistics = data_file_statistics_from_parquet_metadata(
        parquet_metadata=file.metadata,
        stats_columns=compute_statistics_plan(schema, table.client.metadata.properties),
        parquet_column_mapping=parquet_path_to_id_mapping(schema),
    )
    key = _partition_key(table, values)
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=file.location.address,
        file_format=FileFormat.PARQUET,
        partition=Record() if key is None else key.partition,
        file_size_in_bytes=file.size,
        sort_order_id=None,
        spec_id=table.spec.spec_id,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )
