"""Deletes that pyiceberg reads and does not write: position delete files and deletion vectors, added as Java does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PATH, POSITION = 2147483546, 2147483545


def delete_positions(table: Any, data_file: Any, positions: Sequence[int], content: str = "POSITION_DELETES") -> None:
    """Commit a file of deletes in a snapshot of its own."""
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat

    fields = [("file_path", pa.string(), PATH), ("pos", pa.int64(), POSITION)]
    schema = pa.schema(
        [pa.field(name, kind, False, {"PARQUET:field_id": str(number)}) for name, kind, number in fields]
    )
    rows = pa.table([[data_file.file_path] * len(positions), list(positions)], schema=schema)
    path = f"{table.location()}/data/deletes-{os.urandom(4).hex()}.parquet"
    with table.io.new_output(path).create() as stream:
        pq.write_table(rows, stream)
    deletes = DataFile.from_args(
        content=DataFileContent[content],
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=data_file.partition,
        record_count=len(positions),
        file_size_in_bytes=len(table.io.new_input(path)),
        spec_id=data_file.spec_id,
        equality_ids=[1] if content == "EQUALITY_DELETES" else None,
        key_metadata=None,
        sort_order_id=None,
    )
    _commit(table, deletes)


def _commit(table: Any, deletes: Any) -> None:
    """An append of a manifest of deletes: pyiceberg's producer knows manifests of data alone."""
    from pyiceberg.manifest import ManifestContent, ManifestEntry, ManifestEntryStatus, ManifestWriterV2
    from pyiceberg.table.update.snapshot import _FastAppendFiles

    class DeletesWriter(ManifestWriterV2):  # type: ignore[misc]
        def content(self) -> ManifestContent:
            return ManifestContent.DELETES

        @property
        def _meta(self) -> dict[str, str]:
            return {**super()._meta, "content": "deletes"}

    class AppendDeletes(_FastAppendFiles):  # type: ignore[misc]
        def _manifests(self) -> list[Any]:
            output = self.new_manifest_output()
            spec = self._transaction.table_metadata.spec()
            with DeletesWriter(spec, self.schema(), output, self._snapshot_id, "deflate") as writer:
                writer.add(
                    ManifestEntry.from_args(
                        status=ManifestEntryStatus.ADDED,
                        snapshot_id=self._snapshot_id,
                        sequence_number=None,
                        file_sequence_number=None,
                        data_file=deletes,
                    )
                )
            return [writer.to_manifest_file(), *self._existing_manifests()]

    from pyiceberg.table.snapshots import Operation

    transaction = table.transaction()
    AppendDeletes(operation=Operation.DELETE, transaction=transaction, io=table.io).commit()
    transaction.commit_transaction()
