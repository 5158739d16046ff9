"""A table of Delta Lake, as the package deltalake reads its log."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from airflow_mullama.errors import (
    ConfigurationError,
    DependencyMissingError,
    InputUnreadableError,
    MullamaError,
    StorageUnavailableError,
    TableFormatError,
)
from airflow_mullama.storage.addresses import split_pin
from airflow_mullama.storage.delta.columns import DeltaColumns, mapped_fields
from airflow_mullama.storage.delta.storage_options import storage_options, table_uri
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import HiveValues
from airflow_mullama.storage.hive_filter import HiveFilter
from airflow_mullama.storage.tables.keys import value_text
from airflow_mullama.storage.tables.table import ANY, NO_POSITIONS, DataFile, Positions, TablePartition

if TYPE_CHECKING:
    from deltalake import DeltaTable

# What a reader must know to read a table, of which this one knows these
# (https://github.com/delta-io/delta/blob/master/PROTOCOL.md#reader-requirements-for-table-features...).
READER_FEATURES = frozenset(
    {
        "columnMapping", "deletionVectors", "timestampNtz", "typeWidening", "typeWidening-preview", "v2Checkpoint",
        "vacuumProtocolCheck", "variantType", "variantType-preview",
    }
)  # fmt: skip
# What is asked of the log about a data file.
ADDED = ("path", "size_bytes", "partition")
# So deltalake says of a version that is not there.
NO_SUCH_VERSION = ("not the same as the specified end version", "Invalid table version", "No files in log segment")


class DeltaHandle:
    """A Delta table, whatever its state.

    Args:
        location: of its directory, with the version to be read in its address if that is not the newest.

    Raises:
        DependencyMissingError: deltalake is not installed.
    """

    def __init__(self, location: Location) -> None:
        require_deltalake(location)
        self.location = location
        self.version = split_pin(location.address)[1]
        self._client: DeltaTable | None = None
        self._current: DeltaState | None = None
        self._lock = threading.Lock()

    def current(self) -> DeltaState | None:
        """The table as it is now, or in the version that its address names; ``None`` where there is none.

        Raises:
            TableFormatError: it needs what cannot be read here.
            ConfigurationError: it has no such version.
            StorageUnavailableError: its log cannot be read now.
        """
        with self._lock:
            if self._client is None:
                self._client = load_table(self.location, self.version)
            elif self.version is None:
                with talking_to(self.location):
                    self._client.update_incremental()
            if self._client is None:
                return None
            if self._current is None or self._current.version != self._client.version():
                self._current = DeltaState(self.location, self._client)
            return self._current


class DeltaState:
    """One version of a Delta table.

    Args:
        location: of the table.
        client: loaded in that version.
    """

    def __init__(self, location: Location, client: DeltaTable) -> None:
        self.location = location
        self.client = client
        with talking_to(location):
            self.version = client.version()
            metadata, protocol = client.metadata(), client.protocol()
            self.configuration: Mapping[str, str] = dict(metadata.configuration)
            self.keys: tuple[str, ...] = tuple(metadata.partition_columns)
            schema = client.schema()
        unknown = sorted(set(protocol.reader_features or ()) - READER_FEATURES)
        if unknown or protocol.min_reader_version > 3:
            raise TableFormatError(
                f"The table {location.url!r} needs readers that know {', '.join(unknown) or 'a newer protocol'}, and "
                "this one does not; write the rows that you want to a table without, and give that as input_path."
            )
        self.may_have_deletions = "deletionVectors" in (protocol.reader_features or ())
        self.column_mapping = self.configuration.get("delta.columnMapping.mode", "none")
        self.fields = mapped_fields(schema.to_json(), pa.schema(schema.to_arrow()), self.column_mapping)
        self.schema = pa.schema([field.arrow for field in self.fields])
        self._partitions: list[TablePartition] | None = None

    @property
    def state(self) -> str:
        """For people."""
        return f"version {self.version}"

    def partitions(self, where: HiveFilter | None = None, values: HiveValues = ANY) -> Sequence[TablePartition]:
        """Its partitions: the log has their values, so that no file is looked at.

        Args:
            where, values: leave out others.

        Raises:
            TableFormatError, UnsupportedColumnError, StorageUnavailableError
        """
        if self._partitions is None:
            self._partitions = self._read_partitions()
        return [one for one in self._partitions if one.is_wanted(where, values)]

    def _read_partitions(self) -> list[TablePartition]:
        with talking_to(self.location):
            added = pa.table(self.client.get_add_actions())
            deleted = self._deleted_rows()
        found: dict[tuple[str | None, ...], list[DataFile]] = {}
        fields = {field.name: field for field in self.fields}
        for action in added.select([name for name in ADDED if name in added.column_names]).to_pylist():
            values = action.get("partition") or {}
            positions = deleted.pop(unquote(action["path"]), NO_POSITIONS)
            file = self._file(action, DeltaColumns(fields, {key: values[key] for key in self.keys}), positions)
            key = tuple(value_text(name, values[name]) for name in self.keys)
            found.setdefault(key, []).append(file)
        if deleted:
            raise TableFormatError(
                f"The table {self.location.url!r} has rows deleted from {next(iter(deleted))!r}, which is not among "
                "its files by that name; nothing is read of it, as deleted rows might be."
            )
        partitions = [
            TablePartition(dict(zip(self.keys, key, strict=True)), sorted(files, key=lambda file: file.location.path))
            for key, files in found.items()
        ]
        return sorted(partitions, key=lambda one: [(value is not None, value or "") for value in one.values.values()])

    def _file(self, action: Mapping[str, Any], columns: DeltaColumns, deleted: Positions) -> DataFile:
        path = unquote(action["path"])
        if "://" in path or path.startswith("/"):
            raise TableFormatError(
                f"The table {self.location.url!r} has the file {path!r} outside of its directory, as a shallow clone "
                "has; make a deep clone of it, or give the table that it was cloned from as input_path."
            )
        gone = f"|{len(deleted)}|{hash_of(deleted)}" if len(deleted) else ""
        identity = f"{action['path']}|{action['size_bytes']}{gone}"
        return DataFile(self.location.join(path), action["size_bytes"], identity, columns, lambda: deleted)

    def _deleted_rows(self) -> dict[str, Positions]:
        """The rows that deletion vectors delete, by the file's path in the table."""
        if not self.may_have_deletions:
            return {}
        root = self.client.table_uri.rstrip("/") + "/"
        deleted: dict[str, Positions] = {}
        for batch in self.client.deletion_vectors():
            vectors = pa.record_batch(batch)
            for uri, kept in zip(vectors["filepath"].to_pylist(), vectors["selection_vector"], strict=True):
                path = unquote(uri.removeprefix(root) if uri.startswith(root) else uri)
                deleted[path] = np.flatnonzero(~kept.values.to_numpy(zero_copy_only=False)).astype(np.int64)
        return deleted


def hash_of(positions: Positions) -> str:
    """What tells these rows from others."""
    return hashlib.sha256(positions.tobytes()).hexdigest()


def require_deltalake(location: Location) -> None:
    """Find the package.

    Raises:
        DependencyMissingError: it is not installed.
    """
    try:
        import deltalake  # noqa: F401
    except ImportError as error:
        raise DependencyMissingError(
            f"The table {location.url!r} is read and written by the package deltalake, which is not installed: "
            "pip install 'airflow-mullama[delta]'."
        ) from error


def load_table(location: Location, version: int | None = None) -> DeltaTable | None:
    """A table's newest version or another one; ``None`` where there is no table.

    Raises:
        ConfigurationError, TableFormatError, StorageUnavailableError
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    with talking_to(location):
        try:
            return DeltaTable(table_uri(location), version=version, storage_options=storage_options(location))
        except TableNotFoundError:
            return None
        except DeltaError as error:
            if version is not None and any(words in str(error) for words in NO_SUCH_VERSION):
                raise ConfigurationError(
                    f"The table {location.url!r} has no such version, or not any more; leave it out to read the newest."
                ) from error
            raise


@contextlib.contextmanager
def talking_to(location: Location) -> Iterator[None]:
    """Turn what deltalake raises into one sentence.

    Args:
        location: of the table.

    Raises:
        deltalake.exceptions.CommitFailedError: another commit came first.
        TableFormatError: the table needs what deltalake does not know.
        StorageUnavailableError: its log cannot be read now.
        InputUnreadableError: anything else.
    """
    from deltalake.exceptions import CommitFailedError, DeltaError, DeltaProtocolError

    try:
        yield
    except (MullamaError, CommitFailedError):
        raise
    except DeltaError as error:
        if isinstance(error, DeltaProtocolError) or "nsupported" in str(error):
            raise TableFormatError(
                f"The table {location.url!r} needs what deltalake cannot read: {first_line(error)}; write the rows "
                "that you want to a table without, and give that as input_path."
            ) from error
        raise InputUnreadableError(f"The table {location.url!r} cannot be read: {first_line(error)}.") from error
    except OSError as error:
        raise StorageUnavailableError(
            f"The log of the table {location.url!r} cannot be read now: {first_line(error)}."
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, without its further lines."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
