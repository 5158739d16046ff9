"""A table of Iceberg, as the package pyiceberg plans its scan."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

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
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import HiveValues
from airflow_mullama.storage.hive_filter import HiveFilter
from airflow_mullama.storage.iceberg.columns import IcebergColumns, arrow_schema, projects_as_expected
from airflow_mullama.storage.iceberg.row_filter import row_filter
from airflow_mullama.storage.tables.keys import normalised
from airflow_mullama.storage.tables.table import ANY, NO_POSITIONS, DataFile, Positions, TablePartition

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

FILE_IO = "pyiceberg.io.pyarrow.PyArrowFileIO"
# Who asks for more partitions of one state, one by one, is told of all: the manifests are then read once.
MOST_PLANS = 2


class IcebergHandle:
    """An Iceberg table, whatever its state.

    Args:
        location: its catalog and its name, with the snapshot to be read in its address if that is not the newest.

    Raises:
        DependencyMissingError: pyiceberg is not installed.
        ConfigurationError: there is no such catalog.
    """

    def __init__(self, location: Location) -> None:
        require_pyiceberg(location)
        self.location = location
        self.snapshot_id = split_pin(location.address)[1]
        self.catalog_name, _, self.name = location.path.partition("/")
        self._client: Table | None = None
        self._current: IcebergState | None = None
        self._lock = threading.Lock()

    @functools.cached_property
    def catalog(self) -> Catalog:
        """By pyiceberg's own configuration, or that of a connection."""
        from pyiceberg.catalog import load_catalog

        with talking_to(self.location):
            try:
                return load_catalog(self.catalog_name, **{**self.location.client_options, "py-io-impl": FILE_IO})
            except (ValueError, ImportError) as error:
                raise ConfigurationError(
                    f"The catalog {self.catalog_name!r} of {self.location.url!r} cannot be opened ({error}); describe "
                    f"it in ~/.pyiceberg.yaml or in PYICEBERG_CATALOG__{self.catalog_name.upper()}__URI, or name a "
                    "connection: iceberg://conn_id@catalog/namespace.table."
                ) from error

    def load(self) -> Table | None:
        """The table as the catalog has it now; ``None`` where there is none."""
        from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

        with talking_to(self.location):
            try:
                return self.catalog.load_table(self.name)
            except (NoSuchTableError, NoSuchNamespaceError):
                return None

    def current(self) -> IcebergState | None:
        """The table as it is now, or in the snapshot that its address names; ``None`` where there is none.

        Raises:
            ConfigurationError: it has no such snapshot.
            TableFormatError, StorageUnavailableError
        """
        with self._lock:
            if self._client is None or self.snapshot_id is None:
                self._client = self.load()
            if self._client is None:
                return None
            if self._current is None or self._current.metadata_location != self._client.metadata_location:
                self._current = IcebergState(self.location, self._client, self.snapshot_id)
            return self._current


class IcebergState:
    """One state of an Iceberg table.

    Args:
        location: of the table.
        client: as it was loaded.
        snapshot_id: which of its snapshots; ``None`` for the newest.

    Raises:
        ConfigurationError: it has no such snapshot.
    """

    def __init__(self, location: Location, client: Table, snapshot_id: int | None = None) -> None:
        self.location = location
        self.client = client
        self.metadata_location = client.metadata_location
        if snapshot_id is not None and client.snapshot_by_id(snapshot_id) is None:
            raise ConfigurationError(
                f"The table {location.url!r} has no such snapshot, or not any more; leave it out to read the newest."
            )
        newest = client.current_snapshot()
        self._snapshot_id = snapshot_id
        self.state = f"snapshot {snapshot_id or (newest.snapshot_id if newest else 'none')}"
        scan = client.scan(snapshot_id=snapshot_id)
        self.iceberg_schema = scan.projection()
        self.schema = arrow_schema(self.iceberg_schema)
        self.spec = client.spec()
        self.keys = tuple(field.name for field in self.spec.fields if str(field.transform) != "void")
        self.data_files: dict[str, Any] = {}
        self._partitions: dict[tuple[str | None, ...] | None, TablePartition] = {}
        self._is_whole = False  # whether these are all
        self._plans = 0
        self._lock = threading.Lock()

    def partitions(self, where: HiveFilter | None = None, values: HiveValues = ANY) -> Sequence[TablePartition]:
        """Its partitions: the manifests have their values, so that no data file is looked at.

        Only manifests that can have a wanted one are read, as long as few partitions are asked for one by one.

        Args:
            where, values: leave out others.

        Raises:
            TableFormatError, UnsupportedColumnError, StorageUnavailableError
        """
        with self._lock:
            if not self._is_whole and self._key(values) not in self._partitions:
                self._plan(where, values)
            wanted = [one for one in self._partitions.values() if one.is_wanted(where, values)]
        return sorted(wanted, key=lambda one: [(value is not None, value or "") for value in one.values.values()])

    def _key(self, values: HiveValues) -> tuple[str | None, ...] | None:
        """What the partition of these values is remembered by, if they are those of one."""
        return tuple(values[key] for key in self.keys) if values.keys() == set(self.keys) else None

    def _plan(self, where: HiveFilter | None, values: HiveValues) -> None:
        wanted = None
        if self._plans < MOST_PLANS:
            wanted = row_filter(self.client.schema(), self.spec, where, values)
        found: dict[tuple[str | None, ...], list[DataFile]] = {}
        with talking_to(self.location):
            scan = self.client.scan(snapshot_id=self._snapshot_id)
            for task in (scan if wanted is None else scan.filter(wanted)).plan_files():
                key = tuple(self._values(task.file).values())
                found.setdefault(key, []).append(self._file(task))
                self.data_files[task.file.file_path] = task.file
        for key, files in found.items():
            partition = dict(zip(self.keys, key, strict=True))
            self._partitions[key] = TablePartition(partition, sorted(files, key=lambda one: one.location.address))
        self._plans += 1
        self._is_whole = wanted is None

    def _values(self, file: Any) -> dict[str, str | None]:
        if file.spec_id != self.spec.spec_id:
            raise TableFormatError(
                f"The table {self.location.url!r} has files from before its partitions were changed, which lie across "
                "those of today; rewrite them (rewrite_data_files in Spark), or give a table of today's as input_path."
            )
        values: dict[str, str | None] = {}
        for place, field in enumerate(self.spec.fields):
            if field.name in self.keys:
                value = file.partition[place]
                kind = field.transform.result_type(self.iceberg_schema.find_type(field.source_id))
                values[field.name] = None if value is None else field.transform.to_human_string(kind, value)
        return normalised(values, self.schema)

    def _file(self, task: Any) -> DataFile:
        file = task.file
        if file.file_format.value.upper() != "PARQUET":
            raise TableFormatError(
                f"The table {self.location.url!r} has files of {file.file_format.value}, and only Parquet is read; "
                "rewrite them as Parquet."
            )
        deletes = sorted(task.delete_files, key=lambda one: one.file_path)
        gone = [f"{one.file_path}|{one.file_size_in_bytes}|{one.record_count}" for one in deletes]
        columns = IcebergColumns(self.iceberg_schema, self.schema, file, self.client.metadata)
        return DataFile(
            self.place(file.file_path),
            file.file_size_in_bytes,
            "|".join([file.file_path, str(file.file_size_in_bytes), *gone]),
            columns,
            functools.partial(self._deleted, file.file_path, tuple(deletes)),
        )

    def place(self, path: str) -> Location:
        """Where a file of the table lies, by its address in the metadata."""
        found: Any = self.client.io.new_input(path)
        return Location(found._filesystem, found._path, path)

    def _deleted(self, path: str, deletes: Sequence[Any]) -> Positions:
        from pyiceberg.io.pyarrow import _read_deletes

        with talking_to(self.location):
            positions = [_read_deletes(self.client.io, one).get(path) for one in deletes]
        arrays = [one.to_numpy() for one in positions if one is not None]
        return np.unique(np.concatenate(arrays)).astype(np.int64) if arrays else NO_POSITIONS


def require_pyiceberg(location: Location) -> None:
    """Find the package.

    Raises:
        DependencyMissingError: it is not installed, or is another than is known.
    """
    try:
        import pyiceberg.io.pyarrow  # noqa: F401
    except ImportError as error:
        raise DependencyMissingError(
            f"The table {location.url!r} is read and written by the package pyiceberg, which is not installed: "
            "pip install 'airflow-mullama[iceberg]'."
        ) from error
    if not projects_as_expected():
        raise DependencyMissingError(
            f"The table {location.url!r} cannot be read by the pyiceberg that is installed: "
            "pip install 'pyiceberg==0.12.*'."
        )


@contextlib.contextmanager
def talking_to(location: Location) -> Iterator[None]:
    """Turn what pyiceberg raises into one sentence.

    Args:
        location: of the table.

    Raises:
        TableFormatError: the table needs what pyiceberg does not know.
        StorageUnavailableError: the catalog or the store does not answer.
        InputUnreadableError: anything else.
    """
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    try:
        yield
    except (MullamaError, CommitFailedException, ValidationException):
        raise
    except (ValueError, NotImplementedError) as error:
        reason = first_line(error)
        if "support" in reason:
            raise TableFormatError(
                f"The table {location.url!r} needs what pyiceberg cannot read: {reason}; rewrite it without (in Spark: "
                "rewrite_data_files), or write the rows that you want to a table of their own."
            ) from error
        raise InputUnreadableError(f"The table {location.url!r} cannot be read: {reason}.") from error
    except Exception as error:
        known = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in LIBRARIES
        if not known or isinstance(error, pa.ArrowException):
            raise
        raise StorageUnavailableError(
            f"The table {location.url!r} cannot be asked for now: {type(error).__name__}: {first_line(error)}."
        ) from error


# Whose errors speak of a catalog that does not answer.
LIBRARIES = ("pyiceberg", "requests", "sqlalchemy", "urllib3", "botocore")


def first_line(error: BaseException) -> str:
    """What an error says, without its further lines."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
