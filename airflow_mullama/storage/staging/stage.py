"""Chunks of outcomes made durable beside the output, before the output exists.

A staged chunk is one file with the outcomes of the rows ``[start, stop)``: each row's number stands beside its outcome.
Before it is whole, the rows that are finished may stand in parts: files of one attempt each, so that two attempts never
overwrite what the other relies on. A file begins with the length and the CRC-32 of the rest and
its schema carries the fingerprint, so that a torn, foreign or older file is recognised and never mixed in. Files lie in
a folder whose name begins with ``_``, which readers of a data lake skip.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from airflow_mullama.arrow_stream import StreamPieces
from airflow_mullama.background import begin
from airflow_mullama.errors import MullamaError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.links import read_regular_file, refuse_link
from airflow_mullama.storage.parquet.vector_columns import holds_vectors
from airflow_mullama.storage.staging.commit import make_folder, publish_bytes, writing
from airflow_mullama.storage.staging.dead_uploads import DeadUploads
from airflow_mullama.storage.staging.left_behind import remove_beside
from airflow_mullama.storage.staging.s3_client import s3_client
from airflow_mullama.storage.staging.unpublished import new_name

log = logging.getLogger(__name__)

STAGE_FOLDER = "_mullama_stage"
SUSPECTS_NAME = "suspects.json"
PROBE_NAME = "_probe"
MOST_SUSPECTS_BYTES = 1 << 20
# Guards against torn writes and failing disks, not against people: those who may write here may write anything.
# Sixteen bytes, so that what follows keeps the alignment that Arrow wants.
CHECKSUM = struct.Struct("<QI4x")
FINGERPRINT_KEY = b"fingerprint"
# A chunk's name, and behind it of a part: the attempt and a number.
CHUNK_FILE = re.compile(r"rows-([0-9]+)-([0-9]+)(?:-[0-9a-f]{8}-[0-9]+)?\.arrow")


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


@dataclass(frozen=True)
class ChunkPlan:
    """A partition cut into chunks. They depend on nothing else, so that every attempt has the same ones.

    Args:
        rows: of the partition; they may be billions, so no list is made of the chunks.
        chunk_rows: of each chunk but the last.
    """

    rows: int
    chunk_rows: int

    def __len__(self) -> int:
        return len(range(0, self.rows, self.chunk_rows))

    def __getitem__(self, index: int) -> Chunk:
        start = index * self.chunk_rows
        if not 0 <= start < self.rows:
            raise IndexError(f"There is no chunk {index}.")
        return Chunk(index, start, min(start + self.chunk_rows, self.rows))

    def __iter__(self) -> Iterator[Chunk]:
        return map(self.__getitem__, range(len(self)))


class Stage:
    """The staged chunks of one output and one fingerprint.

    Args:
        output: the Parquet file that they become.
        fingerprint: of the work; chunks of another one are another stage.
        schema: of a chunk: ``row: int64`` and the added columns, without prefix.
    """

    def __init__(self, output: Location, fingerprint: str, schema: pa.Schema) -> None:
        self._output_folder = output.parent
        self._folder_of_output = self._output_folder.join(STAGE_FOLDER, output.name)
        self._folder = self._folder_of_output.join(fingerprint[:16])
        self._fingerprint = fingerprint.encode()
        self._schema = schema.with_metadata({FINGERPRINT_KEY: self._fingerprint})
        self._present: set[str] | None = None
        self._dead_uploads = DeadUploads(output, self._folder_of_output)
        self._looked: Future[None] | None = None
        self._attempt = os.urandom(4).hex()
        self._parts = itertools.count()
        self._older: frozenset[str] | None = None
        # The bytes of vectors do not repeat: compressing them costs time and saves nothing.
        self._compression = None if any(holds_vectors(kind) for kind in schema.types) else "lz4"

    @property
    def location(self) -> Location:
        """The folder of its chunks."""
        return self._folder

    def open(self) -> None:
        """Create the folder; warn of stages of other fingerprints, which are left alone until the output is published.

        Raises:
            OutputNotWritableError: the place refuses to be written, or is a link to somewhere else.
        """
        refuse_link(self._output_folder, self._folder)
        # Beside the first write: each takes a store its time.
        listing = None if self._folder.has_folders else begin(self._list_all, "mullama-stage")
        with writing(self._folder):
            make_folder(self._folder)
            publish_bytes(self._folder.join(PROBE_NAME), b"")
        begin(partial(s3_client, self._folder.filesystem), "mullama-client")  # a second of imports, for the end
        own, others = self._list_all() if listing is None else listing.result()
        self._present, self._older = own, frozenset(others)
        if others or own - {PROBE_NAME}:  # an attempt did not come to its end here
            self._looked = begin(self._dead_uploads.look, "mullama-uploads")
        for folder in sorted(others):
            log.warning("staged rows in %s belong to other input, model or settings and are not used", folder)

    def _list_all(self) -> tuple[set[str], set[str]]:
        """The names of this stage's files, and paths of other stages of the output."""
        own, others = set(), set()
        for info in self._infos(self._folder_of_output, recursive=True):
            fingerprint, _, name = info.path[len(self._folder_of_output.path) + 1 :].partition("/")
            if fingerprint == self._folder.name:
                own.update([name] if name else [])
            elif name or info.type == pafs.FileType.Directory:
                others.add(f"{self._folder_of_output.path}/{fingerprint}")
        return own, others

    @staticmethod
    def _infos(folder: Location, *, recursive: bool) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(folder.path, allow_not_found=True, recursive=recursive)
        return list(folder.filesystem.get_file_info(selector))

    def _names(self) -> set[str]:
        """Of the files there, from the last listing, unless something has been written or missed since then."""
        present = self._present
        if present is None:
            infos = self._infos(self._folder, recursive=False)
            present = self._present = {info.base_name for info in infos if info.type == pafs.FileType.File}
        return present

    def staged(self) -> dict[tuple[int, int], list[Location]]:
        """Files that look like chunks or parts of them, by the rows of the chunk. Nothing is read."""
        found: dict[tuple[int, int], list[Location]] = {}
        for name in self._names():
            if named := CHUNK_FILE.fullmatch(name):
                found.setdefault((int(named[1]), int(named[2])), []).append(self._folder.join(name))
        for files in found.values():
            files.sort(key=lambda file: (len(file.name), file.name))  # a whole chunk first
        return found

    def has(self, chunk: Chunk) -> bool:
        """Whether there is a file for a chunk. Nothing is read."""
        return self._file(chunk).is_file()

    def write(self, chunk: Chunk, table: pa.Table) -> None:
        """Make outcomes durable.

        Args:
            chunk: the rows they belong to.
            table: of the stage's schema, in order of ``row``; rows may be missing.
        """
        self._write(self._file(chunk), table)

    def new_part(self, chunk: Chunk) -> Location:
        """A file for some outcomes of a chunk, which nobody else uses."""
        name = f"rows-{chunk.start:012d}-{chunk.stop:012d}-{self._attempt}-{next(self._parts):06d}.arrow"
        return self._folder.join(name)

    def write_part(self, file: Location, table: pa.Table) -> None:
        """Make some outcomes of a chunk durable.

        Args:
            file: of :meth:`new_part`; what stands there is replaced.
            table: see :meth:`write`.
        """
        self._write(file, table)

    def remove_part(self, file: Location) -> None:
        """Remove a part, whose rows are durable elsewhere."""
        self._present = None
        with contextlib.suppress(OSError, pa.ArrowException):  # untidy, never wrong
            file.filesystem.delete_file(file.path)

    def _write(self, file: Location, table: pa.Table) -> None:
        rows = table.cast(self._schema) if table.schema != self._schema else table
        content = StreamPieces(rows, self._schema, self._compression)
        checksum = 0
        for piece in content.pieces:
            checksum = zlib.crc32(piece, checksum)
        publish_bytes(file, CHECKSUM.pack(content.size, checksum), *content.pieces)
        self._present = None

    def read(self, chunk: Chunk) -> pa.Table | None:
        """The outcomes of a chunk in order of ``row``, whole or in part; ``None`` if there are none to be trusted."""
        return self.read_file(self._file(chunk), chunk)

    def read_file(self, file: Location, chunk: Chunk) -> pa.Table | None:
        """The same, of one of the files that :meth:`staged` or :meth:`new_part` named for the chunk."""
        try:
            content = read_regular_file(file)
        except FileNotFoundError:
            self._present = None
            return None
        except (OSError, pa.ArrowException) as error:
            log.warning("the staged chunk %s cannot be read (%s); its rows are computed again", file.url, error)
            return None
        reason = "it is damaged"
        checksum, body = content[: CHECKSUM.size], memoryview(content)[CHECKSUM.size :]
        if body.nbytes and checksum == CHECKSUM.pack(body.nbytes, zlib.crc32(body)):
            table = _read_table(body)
            if table is None:
                reason = "it is no table"
            elif (table.schema.metadata or {}).get(FINGERPRINT_KEY) != self._fingerprint:
                reason = "it belongs to other input, model or settings"
            elif table.schema.equals(self._schema) and _rows_fit(table, chunk):
                return table
            else:
                reason = "it has other rows or columns"
        log.warning("the staged chunk %s is not used: %s; its rows are computed again", file.url, reason)
        return None

    def remember_suspects(self, rows: Mapping[int, int]) -> None:
        """Keep for the next attempt which rows the engine had when it died; it goes on without if that fails.

        Args:
            rows: how often, by row of the partition.
        """
        self._present = None
        try:
            publish_bytes(self._folder.join(SUSPECTS_NAME), json.dumps({str(row): rows[row] for row in rows}).encode())
        except MullamaError as error:
            log.warning("which rows the engine had when it died could not be kept: %s", error)

    def suspects(self) -> dict[int, int]:
        """What :meth:`remember_suspects` kept; empty if nothing, or nothing that can be read."""
        file = self._folder.join(SUSPECTS_NAME)
        if SUSPECTS_NAME not in self._names():
            return {}
        try:
            kept = json.loads(read_regular_file(file, MOST_SUSPECTS_BYTES))
            return {int(row): int(deaths) for row, deaths in kept.items()}
        except FileNotFoundError:
            return {}
        except (OSError, pa.ArrowException, ValueError, TypeError, AttributeError, RecursionError) as error:
            log.warning("%s cannot be read (%s) and is not used", file.url, error)
            return {}

    def temporary_output(self) -> Location:
        """Where the output may be built before it is published, on the same filesystem."""
        return self._folder.join(new_name())

    def remove(self) -> None:
        """Remove this stage and older ones of the same output, after the output is published.

        One that was made since :meth:`open` is left: an attempt at other work has begun meanwhile, and may need it.
        """
        newer: set[str] = set()
        with contextlib.suppress(OSError, pa.ArrowException):  # then it is as if there were none
            newer = set() if self._older is None else self._list_all()[1] - self._older
        if not newer:
            remove_beside(self._output_folder, self._folder_of_output)
        for path in (self._folder.path, *sorted(self._older or ())) if newer else ():
            remove_beside(self._output_folder, self._folder_of_output.join(path.rpartition("/")[2]))
        if self._looked is not None:
            self._looked.result()
            self._dead_uploads.abort_rest()

    def name_of(self, chunk: Chunk) -> str:
        """Of the file that holds a chunk, whole."""
        return f"rows-{chunk.start:012d}-{chunk.stop:012d}.arrow"

    def _file(self, chunk: Chunk) -> Location:
        return self._folder.join(self.name_of(chunk))


def _rows_fit(table: pa.Table, chunk: Chunk) -> bool:
    if table.num_rows == 0:
        return True
    rows = table.column("row").combine_chunks()
    ascending = table.num_rows == 1 or pc.all(pc.greater(rows[1:], rows[:-1])).as_py()
    return bool(ascending) and rows[0].as_py() >= chunk.start and rows[-1].as_py() < chunk.stop


def _read_table(content: memoryview) -> pa.Table | None:
    try:
        table = pa.ipc.open_stream(content).read_all()
        table.validate(full=True)
    except (OSError, pa.ArrowException, ValueError):
        return None
    return table
