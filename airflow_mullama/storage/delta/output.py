"""Writing to a Delta table: one data file, and one commit that puts it in the place of a partition."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow as pa

from airflow_mullama.errors import MullamaError, TableFormatError, UnsupportedColumnError
from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.storage.delta.statistics import file_statistics
from airflow_mullama.storage.delta.storage_options import storage_options, table_uri
from airflow_mullama.storage.delta.table import DeltaHandle, DeltaState, load_table, talking_to
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import HiveValues
from airflow_mullama.storage.tables.keys import key_segments, normalised
from airflow_mullama.storage.tables.output import CommitConflictError, NewFile, StoredSchema
from airflow_mullama.storage.tables.schemas import file_identities, refuse_other_keys, refuse_other_types
from airflow_mullama.storage.tables.table import TablePartition, partition_of
from airflow_mullama.storage.tables.types import TableTypes

if TYPE_CHECKING:
    from deltalake import DeltaTable, Schema

# What a writer must know to write to a table, of which replacing whole files asks nothing more.
WRITER_FEATURES = frozenset(
    {
        "appendOnly", "changeDataFeed", "checkConstraints", "columnMapping", "deletionVectors", "domainMetadata",
        "generatedColumns", "invariants", "timestampNtz", "typeWidening", "v2Checkpoint", "vacuumProtocolCheck",
        "variantType", "variantType-preview",
    }
)  # fmt: skip
NOTE = "airflow_mullama"
# So many commits are looked through for a manifest that a footer does not have any more.
COMMITS_LOOKED_THROUGH = 1000
NOT_IN_NAMES = " ,;{}()\n\t="


class DeltaWriter:
    """Writes to one Delta table.

    Args:
        location: of its directory.

    Raises:
        DependencyMissingError: deltalake is not installed.
    """

    types = TableTypes("Delta Lake", {})

    def __init__(self, location: Location) -> None:
        self.location = location
        self._handle = DeltaHandle(location)

    @property
    def folder(self) -> Location:
        """The table's directory."""
        return self.location

    def current(self) -> DeltaState | None:
        """The table as it is now."""
        return self._handle.current()

    def require_writable(self, schema: pa.Schema, values: HiveValues) -> None:
        """Find out whether rows of this schema may be written to the partition of these values.

        Raises:
            UnsupportedColumnError: a column cannot be one of a Delta table.
            OutputExistsError: the table's columns are others.
            TableFormatError: the table asks more of its writers than this one knows.
            ConfigurationError: it is partitioned otherwise.
        """
        normalised(values, schema)
        table = self.current()
        if table is None:
            _refuse_names(schema.names, ())
            return
        self._refuse_table(table)
        refuse_other_keys(self.location, table.keys, values)
        _refuse_names(schema.names, table.schema.names)
        refuse_other_types(self.location, table.schema, schema)

    def _refuse_table(self, table: DeltaState) -> None:
        with talking_to(self.location):
            features = set(table.client.protocol().writer_features or ())
            fields = json.loads(table.client.schema().to_json())["fields"]
        needs = sorted(features - WRITER_FEATURES)
        if table.column_mapping != "none":
            needs.append("column mapping")
        if table.configuration.get("delta.appendOnly") == "true":
            needs.append("delta.appendOnly")
        needs += sorted(key for key in table.configuration if key.startswith("delta.constraints."))
        needs += sorted({key for one in fields for key in one.get("metadata", {}) if key in CHECKED_BY_WRITERS})
        if needs:
            raise TableFormatError(
                f"The table {self.location.url!r} asks more of its writers than this one knows ({', '.join(needs)}); "
                "give another table as output_path."
            )

    def prepare(self, schema: pa.Schema, values: HiveValues) -> StoredSchema:
        """Nothing is done before the commit; a data file has all columns but those that the table is partitioned by."""
        table = self.current()
        columns = pa.schema([*self._merged(table, schema)])
        kept = [field for field in columns if field.name not in values]
        return StoredSchema(pa.schema(kept), [field.name for field in kept])

    def _merged(self, table: DeltaState | None, schema: pa.Schema) -> pa.Schema:
        if table is None:
            return schema
        return pa.schema([*table.schema, *(field for field in schema if field.name not in table.schema.names)])

    def data_location(self, values: HiveValues, name: str) -> Location:
        """Where a new data file of this name goes: the log does not need the names of folders, people may."""
        plain = [segment for segment in key_segments(values) if quote(segment, safe="=") == segment]
        return self.location.join(*plain, name)

    def commit(self, file: NewFile, schema: pa.Schema, values: HiveValues, replaced: TablePartition | None) -> None:
        """Put a data file in the place of a partition, in one commit, which adds missing columns too.

        Raises:
            CommitConflictError: it is another by now, or somebody else's commit came first.
            OutputNotWritableError, StorageUnavailableError
        """
        from deltalake.exceptions import CommitFailedError
        from deltalake.transaction import AddAction, CommitProperties, Transaction

        client = load_table(self.location)
        table = None if client is None else DeltaState(self.location, client)
        columns = schema if table is None else table.schema
        typed = normalised(values, columns)
        there = None if table is None else partition_of(table, typed)
        if file_identities(there) != file_identities(replaced):
            raise CommitConflictError("the partition was changed")
        if table is not None:
            self.require_writable(schema, values)
        add = AddAction(
            path=file.location.path.removeprefix(f"{self.location.path}/"),
            size=file.size,
            partition_values={key: _serialized(typed[key], columns.field(key).type) for key in typed},
            modification_time=int(time.time() * 1000),
            data_change=True,
            stats=json.dumps(file_statistics(file.metadata)),
        )
        partition = "/".join(key_segments(typed))
        app = f"airflow_mullama/{partition}"
        last = client.transaction_version(app) if client is not None else None
        properties = CommitProperties(
            custom_metadata={NOTE: {"partition": partition, "manifest": json.loads(file.manifest.to_footer())}},
            # Of two commits to one partition that know nothing of each other the second is refused.
            app_transactions=[Transaction(app, 0 if last is None else last + 1)],
        )
        try:
            with talking_to(self.location):
                self._commit(client, table, add, schema, typed, properties)
        except CommitFailedError as error:
            raise CommitConflictError(str(error)) from error
        except MullamaError as error:
            if client is None and load_table(self.location) is not None:
                raise CommitConflictError("somebody else has created the table") from error
            raise

    def _commit(
        self,
        client: DeltaTable | None,
        table: DeltaState | None,
        add: Any,
        schema: pa.Schema,
        values: HiveValues,
        properties: Any,
    ) -> None:
        from deltalake import Schema
        from deltalake.transaction import create_table_with_add_actions

        if client is None or table is None:
            create_table_with_add_actions(
                table_uri(self.location),
                Schema.from_arrow(schema),
                [add],
                mode="error",
                partition_by=list(values),
                storage_options=storage_options(self.location),
                commit_properties=properties,
            )
            return
        client.create_write_transaction(
            [add],
            "overwrite",
            _with_columns(client.schema(), table.schema, schema),
            list(table.keys),
            [
                (key, "=", "" if values[key] is None else _serialized(values[key], table.schema.field(key).type))
                for key in values
            ]
            or None,
            commit_properties=properties,
        )

    def committed_manifest(self, values: HiveValues) -> PartitionManifest | None:
        """The manifest in the newest commit of ours to a partition, as long as the log has it."""
        table = self.current()
        if table is None:
            return None
        partition = "/".join(key_segments(values))
        with talking_to(self.location):
            history = table.client.history(COMMITS_LOOKED_THROUGH)
        for commit in history:
            note = commit.get(NOTE)
            if isinstance(note, Mapping) and note.get("partition") == partition:
                try:
                    return PartitionManifest.from_footer(json.dumps(note["manifest"]).encode())
                except (ValueError, KeyError, TypeError):
                    return None
        return None


# What a writer would have to check or to compute, column by column.
CHECKED_BY_WRITERS = ("delta.invariants", "delta.generationExpression", "delta.identity.start")


def _serialized(value: str | None, kind: pa.DataType) -> str | None:
    """A partition's value as the log has it: a point in time with a space, and in UTC without saying so."""
    if value is None or not pa.types.is_timestamp(kind):
        return value
    return value.replace("T", " ").removesuffix("Z")


def _with_columns(delta: Schema, arrow: pa.Schema, wanted: pa.Schema) -> Schema:
    """A table's schema, its notes with it, and the columns that it does not have."""
    from deltalake import Schema

    new = [field for field in wanted if field.name not in arrow.names]
    if not new:
        return delta
    fields = json.loads(delta.to_json())["fields"] + json.loads(Schema.from_arrow(pa.schema(new)).to_json())["fields"]
    return Schema.from_json(json.dumps({"type": "struct", "fields": fields}))


def _refuse_names(names: list[str], known: Any) -> None:
    for name in names:
        if name not in known and any(character in name for character in NOT_IN_NAMES):
            raise UnsupportedColumnError(
                f"The column {name!r} has a character in its name that columns of Delta tables do not have (one of "
                f"{NOT_IN_NAMES!r}); rename it, or give a file or directory as output_path."
            )
    seen: dict[str, str] = {}
    for name in [*known, *(one for one in names if one not in known)]:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise UnsupportedColumnError(
                f"The columns {other!r} and {name!r} differ by capital letters alone, and a Delta table holds them for "
                "one; rename one of them."
            )
