"""Identical requests of a partition are asked once: what one row got is what every row with the same request gets.

An outcome depends on the request alone, but for near ties between tokens (docs/jobs.md): decoding is greedy, or its
seed is made of the job's seed and the request (:meth:`airflow_mullama.engines.sampling.Sampling.row_seed`).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Union

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.jobs.prompts import pictures_of, request_digest
from airflow_mullama.rows import RETRYABLE_ERROR_TYPES

# A longer request is remembered by its hash.
LONGEST_REMEMBERED = 1024
# Requests and outcomes are remembered up to this many bytes, the oldest forgotten first: memory stays flat.
REMEMBERED_BYTES = 32 << 20
# Rows that wait for the outcome of another one; beyond it no further rows are taken.
MOST_WAITING_ROWS = 50_000
# A row waits only for one that is no more than this before it: waiting keeps its chunk from becoming durable.
MOST_ROWS_BEHIND = 10_000

_RETRYABLE = pa.array(RETRYABLE_ERROR_TYPES)

# Outcomes often come a few at a time, and a small batch takes kilobytes: they are kept in batches of this many rows.
SEGMENT_ROWS = 512


Key = Union[str, bytes]  # noqa: UP007 - a runtime value


def _key(text: str) -> Key:
    """What tells a request from all others."""
    if len(text) <= LONGEST_REMEMBERED and not pictures_of(text):
        return text
    return request_digest(text)


class Segment:
    """Outcomes that are remembered, and forgotten, together.

    Args:
        first: the number of its first outcome: all that are remembered are counted, whichever segment has them.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self._batches: list[pa.RecordBatch] = []
        self.rows = 0
        self.bytes = 0
        self.keys: list[Key] = []

    def add(self, outcomes: pa.RecordBatch, keys: Iterable[Key]) -> int:
        """Keep outcomes, and the keys by which they are found; what that weighs."""
        keys = list(keys)
        size = int(outcomes.nbytes) + sum(map(sys.getsizeof, keys))
        self._batches.append(outcomes)
        self.keys += keys
        self.rows += outcomes.num_rows
        self.bytes += size
        return size

    def pack(self) -> pa.RecordBatch:
        """All outcomes as one batch."""
        if len(self._batches) > 1:
            self._batches = pa.Table.from_batches(self._batches).combine_chunks().to_batches()
        (batch,) = self._batches
        return batch


class Duplicates:
    """Knows which requests were asked and what came back.

    Args:
        rows_behind: a row waits only for one that is at most this many rows before it; else it is asked as well.
        remembered_bytes: how much is remembered of requests that have their outcome.
    """

    def __init__(self, rows_behind: int = MOST_ROWS_BEHIND, remembered_bytes: int = REMEMBERED_BYTES) -> None:
        self._rows_behind = min(rows_behind, MOST_ROWS_BEHIND)
        self._limit = remembered_bytes
        self._asked: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}
        self._waiting: dict[int, list[int]] = {}
        self._known: dict[Key, int] = {}
        self._segments: deque[Segment] = deque([Segment(0)])
        self._bytes = 0
        self.waiting_rows = 0

    @property
    def has_room(self) -> bool:
        """Whether more rows may be sifted."""
        return self.waiting_rows < MOST_WAITING_ROWS

    def sift(self, rows: Sequence[int], texts: Sequence[str]) -> tuple[list[int], list[str], list[pa.RecordBatch]]:
        """Take out the rows whose request was asked before.

        Args:
            rows: positions in the partition.
            texts: their rendered requests.

        Returns:
            The rows and requests to ask, and what is known already: rows of chunks.
        """
        keys = list(map(_key, texts))
        if self._are_new(keys):
            self._asked.update(zip(keys, rows, strict=True))
            self._keys.update(zip(rows, keys, strict=True))
            return list(rows), list(texts), []
        asked_rows: list[int] = []
        asked_texts: list[str] = []
        known: list[tuple[int, int]] = []
        for row, text, key in zip(rows, texts, keys, strict=True):
            leader = self._asked.get(key)
            if leader is not None and row - leader <= self._rows_behind:
                self._waiting.setdefault(leader, []).append(row)
                self.waiting_rows += 1
            elif (place := self._known.get(key)) is not None:
                known.append((row, place))
            else:
                self._asked[key] = row
                self._keys[row] = key
                asked_rows.append(row)
                asked_texts.append(text)
        return asked_rows, asked_texts, self._copies(known)

    def _are_new(self, keys: Sequence[Key]) -> bool:
        """Whether none was asked before, nor twice here: so it is with most, and nothing costs less to find out."""
        asked, known = self._asked.keys(), self._known.keys()
        return len(set(keys)) == len(keys) and asked.isdisjoint(keys) and known.isdisjoint(keys)

    def settle(self, outcomes: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Take note of what came back.

        An error that may pass, after all its retries, is also that of the rows that waited, so that its retries are not
        repeated for each of them; rows that come later ask anew, and so does the next attempt.

        Args:
            outcomes: rows of chunks that were asked.

        Returns:
            What the rows that waited for these get.
        """
        rows = outcomes.column("row").to_pylist()
        keys = list(map(self._keys.pop, rows, repeat(None)))  # a row that has no request has no key
        for row, key in zip(rows, keys, strict=True):
            if key is not None and self._asked.get(key) == row:
                del self._asked[key]
        remembered = self._remember(outcomes, keys)
        places = dict(zip(rows, remembered, strict=True)) if self._waiting else {}
        copied = [
            (follower, places[row])
            for row in self._waiting.keys() & places.keys()
            for follower in self._waiting.pop(row)
        ]
        self.waiting_rows -= len(copied)
        copies = self._copies(copied)
        self._forget()
        return copies

    def _remember(self, outcomes: pa.RecordBatch, keys: Sequence[Key | None]) -> range:
        """Keep outcomes; their numbers."""
        if self._segments[-1].rows and outcomes.num_rows >= SEGMENT_ROWS:
            self._begin_segment()  # a batch that fills one alone is not copied
        segment = self._segments[-1]
        places = range(segment.first + segment.rows, segment.first + segment.rows + outcomes.num_rows)
        error_type = outcomes.column("error_type")
        any_error = error_type.null_count < outcomes.num_rows
        may_pass = pc.is_in(error_type, _RETRYABLE).to_pylist() if any_error else repeat(False)
        found_by = {
            key: place
            for key, place, passes in zip(keys, places, may_pass, strict=False)
            if key is not None and not passes and key not in self._known
        }
        self._known.update(found_by)
        self._bytes += segment.add(outcomes, found_by)
        return places

    def _forget(self) -> None:
        if self._segments[-1].rows >= SEGMENT_ROWS:
            self._begin_segment()
        while self._bytes > self._limit:
            oldest = self._segments.popleft()
            self._bytes -= oldest.bytes
            for key in oldest.keys:
                del self._known[key]
            if not self._segments:
                self._segments.append(Segment(oldest.first + oldest.rows))

    def _begin_segment(self) -> None:
        last = self._segments[-1]
        last.pack()
        self._segments.append(Segment(last.first + last.rows))

    def _copies(self, known: Sequence[tuple[int, int]]) -> list[pa.RecordBatch]:
        """Outcomes as those of other rows, a batch for each segment that they come from.

        Args:
            known: rows, and the numbers of the outcomes that they get.
        """
        if not known:
            return []
        rows, places = np.array(known, np.int64).T
        borders = [segment.first for segment in self._segments]
        segments = np.searchsorted(borders, places, side="right") - 1
        copies = []
        for number in np.unique(segments):
            segment, here = self._segments[int(number)], segments == number
            taken = segment.pack().take(pa.array(places[here] - segment.first))
            column = taken.schema.get_field_index("row")
            copies.append(taken.set_column(column, taken.schema.field(column), pa.array(rows[here])))
        return copies
