"""Chunks on their way to being whole: what they have, and what of it is durable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.errors import AccountingError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.staging.stage import Chunk, Stage

# Rows that lie together in memory are left there if they are so many at least, on average: smaller pieces cost more
# than copying them into one.
LEAST_SLICED_ROWS = 64


@dataclass(frozen=True)
class Part:
    """Some rows of a chunk in a file of the stage.

    Args:
        file: where they are.
        rows: which, ascending.
    """

    file: Location
    rows: npt.NDArray[np.int64]


@dataclass
class OpenChunk:
    """A chunk that lacks outcomes.

    Args:
        chunk: its rows.
        tables: outcomes that are at hand.
        rows: how many it has, at hand or in parts.
        bytes: what those at hand weigh.
        file: where they are, or some of them, until they are more or the chunk is whole; ``None`` if nowhere yet.
        parts: those that are durable and whose rows are not at hand any more.
        oldest: when the oldest row came that no file has; ``None`` if there is none.
    """

    chunk: Chunk
    tables: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    file: Location | None = None
    parts: list[Part] = field(default_factory=list)
    oldest: float | None = None

    def add(self, table: pa.Table, now: float | None) -> int:
        """More outcomes; ``now`` is ``None`` if a file of an earlier attempt has them. What they weigh."""
        weight = int(table.nbytes)
        self.tables.append(table)
        self.rows += table.num_rows
        self.bytes += weight
        if self.oldest is None:
            self.oldest = now
        return weight

    def part_begun(self) -> None:
        """What was at hand is becoming a part."""
        self.tables, self.bytes, self.oldest, self.file = [], 0, None, None


def by_chunk(table: pa.Table, chunk_rows: int) -> Iterator[tuple[int, pa.Table]]:
    """Outcomes, and the number of the chunk that they belong to; a chunk may come several times.

    Rows that follow each other stay where they are in memory: in a batch that the chunks before and after have a part
    in, too, so that together they hold it once.
    """
    rows = rows_of(table)
    numbers = rows // chunk_rows
    borders = np.flatnonzero((np.diff(numbers) != 0) | (np.diff(rows) < 0)) + 1
    if len(rows) and (len(borders) + 1) * LEAST_SLICED_ROWS <= len(rows):
        for start, stop in pairwise([0, *borders.tolist(), len(rows)]):
            yield int(numbers[start]), table.slice(start, stop - start)
        return
    for number in np.unique(numbers):
        here = numbers == number
        yield int(number), table if here.all() else table.filter(pa.array(here))


def in_order(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """The rows of several tables in order of row; not copied where the tables follow each other."""
    by_first = sorted(tables, key=lambda table: table.column("row")[0].as_py())
    table = pa.concat_tables(by_first).unify_dictionaries() if tables else schema.empty_table()
    if len(tables) * LEAST_SLICED_ROWS <= table.num_rows and (np.diff(rows_of(table)) > 0).all():
        return table
    return table.take(pc.sort_indices(table.column("row")))


def rows_of(table: pa.Table) -> npt.NDArray[np.int64]:
    """The column ``row``."""
    rows: npt.NDArray[np.int64] = table.column("row").to_numpy()
    return rows


def require_all_rows(chunk: Chunk, rows: Sequence[npt.NDArray[np.int64]]) -> None:
    """Refuse outcomes that are not those of each of a chunk's rows, once.

    Raises:
        AccountingError: names the chunk.
    """
    found = np.sort(np.concatenate(rows)) if rows else np.empty(0, np.int64)
    if len(found) != chunk.rows or (found != np.arange(chunk.start, chunk.stop)).any():
        raise AccountingError(f"The chunk {chunk} has outcomes for other rows; nothing is published.")


def merged(stage: Stage, chunk: Chunk, parts: Sequence[Part]) -> Iterator[pa.Table]:
    """Stream a chunk of several parts in order of row; ends early where one is no longer there.

    Each part is read when its first row's turn comes and dropped after its last: rows become durable nearly in order,
    so that few are in memory at once.
    """
    rows = np.concatenate([part.rows for part in parts])
    owners = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])[np.argsort(rows)]
    borders = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(owners)]
    rests: dict[int, Any] = {}
    for start, stop in pairwise(borders):
        number = int(owners[start])
        rest = rests.pop(number, None)
        if rest is None:
            rest = stage.read_file(parts[number].file, chunk)
        if rest is None or rest.num_rows < stop - start:
            return
        yield rest.slice(0, stop - start)
        if rest.num_rows > stop - start:
            rests[number] = rest.slice(stop - start)
        del rest
