"""Chunks of outcomes made durable beside the output, before the output exists.

A staged chunk is one file with the outcomes of the rows ``[start, stop)``, or of some of them if the task was stopped
in between: each row's number stands beside its outcome. The file begins with the length and the CRC-32 of the rest and
its schema carries the fingerprint, so that a torn, foreign or older file is recognised and never mixed in. Files lie in
a folder whose name begins with ``_``, which readers of a data lake pass over.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import zlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from airflow_mullama.storage.commit import discard, publish_bytes, writing
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.unpublished import new_name
from airflow_mullama.storage.vector_columns import is_vector

log = logging.getLogger(__name__)

STAGE_FOLDER = "_mullama_stage"
# Guards against torn writes and failing disks, not against people: those who may write here may write anything.
# Sixteen bytes, so that what follows keeps the alignment that Arrow wants.
CHECKSUM = struct.Struct("<QI4x")
FINGERPRINT_KEY = b"fingerprint"


@dataclass(frozen=True)
class Chunk:
    """Rows that are made durable together: ``[start, stop)`` of the partition."""

    index: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.stop - self.start


def plan_chunks(rows: int, chunk_rows: int) -> list[Chunk]:
    """Cut a partition into chunks. They depend on nothing else, so that every attempt has the same ones."""
    starts = range(0, rows, chunk_rows)
    return [Chunk(index, start, min(start + chunk_rows, rows)) for index, start in enumerate(starts)]


class Stage:
    """The staged chunks of one output and one fingerprint.

    Args:
        output: the Parquet file to be.
        fingerprint: of the work; chunks of another one are another stage.
        schema: of a chunk: ``row: int64`` and the added columns, without prefix.
    """

    def __init__(self, output: Location, fingerprint: str, schema: pa.Schema) -> None:
        self._folder_of_output = output.parent.join(STAGE_FOLDER, output.name)
        self._folder = self._folder_of_output.join(fingerprint[:16])
        self._fingerprint = fingerprint.encode()
        self._schema = schema.with_metadata({FINGERPRINT_KEY: self._fingerprint})
        # The bytes of vectors do not repeat: compressing them costs time and saves nothing.
        self._compression = None if any(is_vector(kind) for kind in schema.types) else "lz4"

    @property
    def location(self) -> Location:
        """The folder of its chunks."""
        return self._folder

    def open(self) -> None:
        """Create the folder; warn of stages of other fingerprints, which are left alone until the output is published.

        Raises:
            OutputNotWritableError: the place refuses to be written.
        """
        with writing(self._folder):
            self._folder.filesystem.create_dir(self._folder.path, recursive=True)
            publish_bytes(self._folder.join("_probe"), b"")
        selector = pafs.FileSelector(self._folder_of_output.path, allow_not_found=True)
        for info in self._folder.filesystem.get_file_info(selector):
            if info.type == pafs.FileType.Directory and info.base_name != self._folder.name:
                log.warning("staged rows in %s belong to other input, model or settings and are not used", info.path)

    def staged(self) -> dict[tuple[int, int], Location]:
        """Files that look like chunks, by the rows they cover. Nothing is read."""
        found: dict[tuple[int, int], Location] = {}
        selector = pafs.FileSelector(self._folder.path, allow_not_found=True)
        for info in self._folder.filesystem.get_file_info(selector):
            name, _, suffix = info.base_name.partition(".")
            parts = name.split("-")
            if suffix == "arrow" and len(parts) == 3 and parts[0] == "rows" and (parts[1] + parts[2]).isdecimal():
                found[int(parts[1]), int(parts[2])] = self._folder.join(info.base_name)
        return found

    def write(self, chunk: Chunk, table: pa.Table) -> None:
        """Make outcomes durable.

        Args:
            chunk: the rows they belong to.
            table: of the stage's schema, in order of ``row``; rows may be missing.
        """
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=self._compression)
        with pa.ipc.new_stream(sink, self._schema, options=options) as writer:
            writer.write_table(table.cast(self._schema) if table.schema != self._schema else table)
        content = memoryview(sink.getvalue())
        publish_bytes(self._file(chunk), CHECKSUM.pack(content.nbytes, zlib.crc32(content)), content)

    def read(self, chunk: Chunk) -> pa.Table | None:
        """The outcomes of a chunk in order of ``row``, whole or in part; ``None`` if there are none to be trusted."""
        file = self._file(chunk)
        try:
            with file.filesystem.open_input_stream(file.path) as stream:
                content = stream.read()
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException) as error:
            log.warning("the staged chunk %s cannot be read (%s); its rows are computed again", file.url, error)
            return None
        reason = "it is damaged"
        checksum, body = content[: CHECKSUM.size], memoryview(content)[CHECKSUM.size :]
        if body.nbytes and checksum == CHECKSUM.pack(body.nbytes, zlib.crc32(body)):
            table = pa.ipc.open_stream(body).read_all()
            if (table.schema.metadata or {}).get(FINGERPRINT_KEY) != self._fingerprint:
                reason = "it belongs to other input, model or settings"
            elif table.schema.equals(self._schema) and _rows_fit(table, chunk):
                return table
            else:
                reason = "it has other rows or columns"
        log.warning("the staged chunk %s is not used: %s; its rows are computed again", file.url, reason)
        return None

    def temporary_output(self) -> Location:
        """Where the output may be built before it is published, on the same filesystem."""
        return self._folder.join(new_name())

    def remove(self) -> None:
        """Remove this stage and older ones of the same output, after the output is published."""
        discard(self._folder_of_output)
        if self._folder_of_output.is_local:
            # Only if it is empty, and that is decided by the system: another partition may be using it.
            with contextlib.suppress(OSError):
                os.rmdir(self._folder_of_output.parent.path)

    def _file(self, chunk: Chunk) -> Location:
        return self._folder.join(f"rows-{chunk.start:012d}-{chunk.stop:012d}.arrow")


def _rows_fit(table: pa.Table, chunk: Chunk) -> bool:
    if table.num_rows == 0:
        return True
    rows = table.column("row").combine_chunks()
    ascending = table.num_rows == 1 or pc.all(pc.greater(rows[1:], rows[:-1])).as_py()
    return bool(ascending) and rows[0].as_py() >= chunk.start and rows[-1].as_py() < chunk.stop
