"""Writing a Parquet file where nobody sees it, until it is whole and was read back."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama.byte_bounds import ROW_GROUP_BYTES
from airflow_mullama.errors import MullamaError, StageVanishedError
from airflow_mullama.fail_points import reached
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.parquet.read_back import require_readable
from airflow_mullama.storage.staging.commit import writing
from airflow_mullama.storage.staging.unpublished import remove_left_behind, unpublished_file

ROW_GROUP_ROWS = 25_000


@dataclass(frozen=True)
class WholeFile:
    """A Parquet file that is not published yet.

    Args:
        path: of this machine.
        size: its bytes.
    """

    path: str
    size: int


@contextlib.contextmanager
def whole_file(
    *,
    target: Location,
    temporary: Location,
    tables: Iterator[pa.Table],
    schema: pa.Schema,
    options: Callable[[pa.Table | None], Mapping[str, Any]],
    rows: Callable[[], int],
    notes: Callable[[], Mapping[bytes, bytes]],
    finish: Callable[[BinaryIO], None] = lambda file: file.flush(),
) -> Iterator[WholeFile]:
    """Write a Parquet file and read it back; afterwards it is removed if it was not moved to its place.

    Args:
        target: its place.
        temporary: on the target's filesystem, where the file may lie until then.
        tables: its rows.
        schema: of them.
        options: gives those of Arrow's writer, by the first rows if there are any.
        rows: called after the last one: how many there must be.
        notes: called after the last row, for what is to be in the footer.
        finish: does to the written file what is left to be done.

    Raises:
        StageVanishedError: it was removed meanwhile.
        OutputNotWritableError: the place refuses to be written.
        OutputUnreadableError: what was written cannot be read back.
    """
    if target.is_local:
        local_path, mode = temporary.path, 0o666
        with writing(target):
            os.makedirs(temporary.parent.path, exist_ok=True)
    else:
        local_path, mode = os.path.join(tempfile.gettempdir(), temporary.name), 0o600
    remove_left_behind(os.path.dirname(local_path))
    with writing(target), _present(local_path), unpublished_file(local_path, mode) as file:
        groups = _row_groups(tables)
        group = next(groups, None)
        with pq.ParquetWriter(file, schema, **options(group)) as writer:
            while group is not None:
                reached("write")
                writer.write_table(group, row_group_size=max(1, group.num_rows))
                del group  # before the next one is read
                pa.default_memory_pool().release_unused()  # what was encoded, and Arrow's allocators would keep
                group = next(groups, None)
            footer = notes()
            writer.add_key_value_metadata(dict(footer))
        finish(file)
        require_readable(file, target, schema, rows(), footer)
        yield WholeFile(local_path, os.fstat(file.fileno()).st_size)


@contextlib.contextmanager
def _present(local_path: str) -> Iterator[None]:
    try:
        yield
    except MullamaError:
        raise
    except FileNotFoundError as error:
        raise StageVanishedError(f"The unpublished file {local_path!r} is gone.") from error


def _row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Gather batches to row groups of a sound size."""
    gathered: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        gathered.append(table)
        rows += table.num_rows
        size += table.nbytes
        del table
        if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            group = [pa.concat_tables(gathered)]
            gathered, rows, size = [], 0, 0
            yield group.pop()  # held by whoever takes it, and not here
    if gathered:
        yield pa.concat_tables(gathered)
