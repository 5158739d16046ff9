"""Data files that lie in a table and that no commit names yet: of an attempt that is about to commit, or was killed.

Each is announced by a note before it appears. A run that has published the same work removes what other attempts of it
left: none of these can commit any more, since its commit would be refused, and the attempt then looks again. What was
left of other work is removed when no attempt can be alive that left it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs

from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.links import link_on_the_way, read_regular_file, refuse_link
from airflow_mullama.storage.staging.commit import publish_bytes

log = logging.getLogger(__name__)

FOLDER = "_mullama_unpublished"
PREFIX, SUFFIX = "mullama-", ".parquet"
# From the announcement to the commit an attempt has an hour (run.partition_run.PUBLISH_SECONDS).
ABANDONED_SECONDS = 7200.0
MOST_NOTE_BYTES = 1 << 16


@dataclass(frozen=True)
class Announced:
    """A data file that was announced.

    Args:
        note: that says so.
        path: of the data file, on the table's filesystem.
        fingerprint: of the work that it holds.
        age: seconds since then.
    """

    note: Location
    path: str
    fingerprint: str
    age: float


class UnpublishedFiles:
    """The notes about one partition's data files.

    Args:
        table: the folder in which the table's files lie.
        partition: what the partition is called, as the name of a folder.
    """

    def __init__(self, table: Location, partition: str) -> None:
        self._table = table
        self._folder = table.join(FOLDER, partition)

    def announce(self, file: Location, fingerprint: str) -> None:
        """Say that a data file is about to appear.

        Raises:
            OutputNotWritableError: the place refuses to be written, or is a link to somewhere else.
        """
        refuse_link(self._table, self._folder)
        self._folder.filesystem.create_dir(self._folder.path, recursive=True)
        note = json.dumps({"path": file.path, "fingerprint": fingerprint}).encode()
        publish_bytes(self._folder.join(f"{file.name}.json"), note)

    def withdraw(self, file: Location) -> None:
        """Remove a data file that was announced and will never be committed."""
        self._remove(file.path)
        self._remove(self._folder.join(f"{file.name}.json").path)

    def tidy(self, committed: Collection[str], published: str | None) -> None:
        """Remove the notes about files that were committed, and the files that never will be.

        Args:
            committed: paths of the data files that the table has now.
            published: the fingerprint of the work that the partition now holds; ``None`` if none of ours.
        """
        if link_on_the_way(self._table, self._folder) is not None:
            return
        for one in self._announced():
            if one.path not in committed:
                if one.fingerprint != published and one.age < ABANDONED_SECONDS:
                    continue  # another attempt may be about to commit it
                if self._is_ours(one.path):
                    log.info("removing %s, which an attempt left that was killed before it committed it", one.path)
                    self._remove(one.path)
            self._remove(one.note.path)
        with contextlib.suppress(OSError, pa.ArrowException):
            self._remove_empty(self._folder)

    def _is_ours(self, path: str) -> bool:
        """Whether a path is that of a data file as we call them, in this table: a note is only a file."""
        name = path.rpartition("/")[2]
        inside = path.startswith(f"{self._table.path}/") and ".." not in path.split("/")
        named_so = name.startswith(PREFIX) and name.endswith(SUFFIX)
        below = path.removeprefix(f"{self._table.path}/")
        return inside and named_so and link_on_the_way(self._table, self._table.join(below)) is None

    def _announced(self) -> Iterator[Announced]:
        selector = pafs.FileSelector(self._folder.path, allow_not_found=True)
        for info in self._folder.filesystem.get_file_info(selector):
            if info.type != pafs.FileType.File or not info.base_name.endswith(".json"):
                continue
            note = self._folder.join(info.base_name)
            try:
                said = json.loads(read_regular_file(note, MOST_NOTE_BYTES))
                path, fingerprint = str(said["path"]), str(said["fingerprint"])
            except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, RecursionError):
                continue
            age = time.time() - (info.mtime_ns or 0) / 1e9
            yield Announced(note, path, fingerprint, age)

    def _remove(self, path: str) -> None:
        with contextlib.suppress(OSError, pa.ArrowException):
            self._table.filesystem.delete_file(path)

    def _remove_empty(self, folder: Location) -> None:
        import os

        if folder.is_local:
            os.rmdir(folder.path)
            os.rmdir(folder.parent.path)
        elif not self._table.filesystem.get_file_info(pafs.FileSelector(folder.path, allow_not_found=True)):
            self._table.filesystem.delete_dir(folder.path)
