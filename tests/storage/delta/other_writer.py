"""A writer of Delta tables that is not the one they are read with: it writes the log itself, as the protocol has it.

So there are tables with what deltalake reads and does not write: deletion vectors, column mapping, widened types.
"""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
DELETIONS = ("deletionVectors",)


class DeltaWriter:
    """One table; each commit is one version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.version = 0
        (folder / "_delta_log").mkdir(parents=True)

    def create(
        self,
        fields: Sequence[Mapping[str, Any]],
        *,
        partitioned_by: Sequence[str] = (),
        features: Sequence[str] = (),
        writer_features: Sequence[str] = (),
        configuration: Mapping[str, str] | None = None,
    ) -> None:
        protocol: dict[str, Any] = {"minReaderVersion": 1, "minWriterVersion": 2}
        if features or writer_features:
            protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": list(features)}
            protocol["writerFeatures"] = ["appendOnly", "invariants", *features, *writer_features]
        metadata = {
            "id": str(uuid.UUID(int=7)),
            "format": {"provider": "parquet", "options": {}},
            "schemaString": json.dumps({"type": "struct", "fields": list(fields)}),
            "partitionColumns": list(partitioned_by),
            "configuration": dict(configuration or {}),
            "createdTime": 1_700_000_000_000,
        }
        self.commit({"protocol": protocol}, {"metaData": metadata})

    def commit(self, *actions: Mapping[str, Any]) -> None:
        path = self.folder / "_delta_log" / f"{self.version:020d}.json"
        path.write_text("\n".join(json.dumps(action) for action in actions))
        self.version += 1

    def file(
        self,
        name: str,
        table: pa.Table,
        values: Mapping[str, str | None] | None = None,
        deleted: Sequence[int] = (),
        **options: Any,
    ) -> dict[str, Any]:
        """Write a data file; returns the action that adds it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            pq.write_table(table, path, **options)
        action: dict[str, Any] = {
            "path": name,
            "partitionValues": dict(values or {}),
            "size": path.stat().st_size,
            "modificationTime": 1_700_000_000_000,
            "dataChange": True,
            "stats": json.dumps({"numRecords": table.num_rows, "tightBounds": not deleted}),
        }
        if deleted:
            action["deletionVector"] = inline_deletion_vector(deleted)
        return {"add": action}


def removed(added: Mapping[str, Any]) -> dict[str, Any]:
    """The action that takes back one that added a file."""
    names = ("path", "partitionValues", "size", "dataChange", "deletionVector")
    remove = {name: added["add"][name] for name in names if name in added["add"]}
    return {"remove": {**remove, "deletionTimestamp": 1_700_000_000_000, "extendedFileMetadata": True}}


def inline_deletion_vector(rows: Sequence[int]) -> dict[str, Any]:
    """Positions of deleted rows, as https://github.com/delta-io/delta/blob/master/PROTOCOL.md#deletion-vectors says."""
    pyroaring = __import__("pyroaring")
    bitmap = pyroaring.BitMap(rows).serialize()
    body = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    return {"storageType": "i", "pathOrInlineDv": z85(body), "sizeInBytes": len(body), "cardinality": len(rows)}


def z85(content: bytes) -> str:
    content += b"\0" * (-len(content) % 4)
    text = ""
    for place in range(0, len(content), 4):
        number, digits = int.from_bytes(content[place : place + 4], "big"), ""
        for _ in range(5):
            number, digit = divmod(number, 85)
            digits = Z85[digit] + digits
        text += digits
    return text


def field(name: str, kind: Any, **metadata: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "nullable": True, "metadata": metadata}


def mapped(name: str, kind: Any, stored_name: str, number: int) -> dict[str, Any]:
    mapping = {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": stored_name}
    return field(name, kind, **mapping)


def with_ids(fields: Sequence[pa.Field], ids: Sequence[int]) -> pa.Schema:
    """A schema that Arrow writes with these field ids."""
    return pa.schema(
        [one.with_metadata({"PARQUET:field_id": str(number)}) for one, number in zip(fields, ids, strict=True)]
    )
