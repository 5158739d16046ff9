"""Identical requests of a partition are asked once: what one row got is what every row with the same request gets.

That is exact, because an outcome depends on the request alone: decoding is greedy, or its seed is made of the job's
seed and the request (:meth:`airflow_mullama.sampling.Sampling.row_seed`).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.rows import RETRYABLE_ERROR_TYPES

# Requests and outcomes are remembered up to so many bytes, the oldest forgotten first: memory stays flat.
REMEMBERED_BYTES = 32 << 20
# Rows that wait for the outcome of another one; beyond it no further rows are taken.
MOST_WAITING_ROWS = 50_000
# A row waits only for one that is no further before it: waiting keeps its chunk from becoming durable.
MOST_ROWS_BEHIND = 10_000

_RETRYABLE = pa.array(RETRYABLE_ERROR_TYPES)

# Outcomes often come a few at a time, and a small batch takes kilobytes: they are kept in batches of so many rows.
SEGMENT_ROWS = 512


class Segment:
    """Outcomes that are remembered, and forgotten, together."""

    def __init__(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        self.rows = 0
        self.bytes = 0
        self.texts: list[str] = []

    def add(self, outcomes: pa.RecordBatch) -> int:
        """Keep outcomes; the place of the first one."""
        self._batches.append(outcomes)
        self.rows += outcomes.num_rows
        self.bytes += outcomes.nbytes
        return self.rows - int(outcomes.num_rows)

    def pack(self) -> pa.RecordBatch:
        """All outcomes as one batch."""
        if len(self._batches) > 1:
            self._batches = pa.Table.from_batches(self._batches).combine_chunks().to_batches()
        (batch,) = self._batches
        return batch


Place = tuple[Segment, int]


class Duplicates:
    """Knows which requests were asked and what came back.

    Args:
        rows_behind: a row waits only for one that is at most so many rows before it; else it is asked as well.
        remembered_bytes: how much is remembered of requests that have their outcome.
    """

    def __init__(self, rows_behind: int = MOST_ROWS_BEHIND, remembered_bytes: int = REMEMBERED_BYTES) -> None:
        self._rows_behind = min(rows_behind, MOST_ROWS_BEHIND)
        self._limit = remembered_bytes
        self._asked: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._waiting: dict[int, list[int]] = {}
        self._known: dict[str, Place] = {}
        self._segments: deque[Segment] = deque([Segment()])
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
        asked_rows: list[int] = []
        asked_texts: list[str] = []
        known: list[tuple[int, Place]] = []
        for row, text in zip(rows, texts, strict=True):
            leader = self._asked.get(text)
            if leader is not None and row - leader <= self._rows_behind:
                self._waiting.setdefault(leader, []).append(row)
                self.waiting_rows += 1
            elif (place := self._known.get(text)) is not None:
                known.append((row, place))
            else:
                self._asked[text] = row
                self._texts[row] = text
                asked_rows.append(row)
                asked_texts.append(text)
        return asked_rows, asked_texts, _copies(known)

    def settle(self, outcomes: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Take note of what came back.

        An error that may pass, after all its retries, is also that of the rows that waited, so that it is not waited
        for again for each of them; rows that come later ask anew, and so does the next attempt.

        Args:
            outcomes: rows of chunks that were asked.

        Returns:
            What the rows get that waited for these.
        """
        error_type = outcomes.column("error_type")
        any_error = error_type.null_count < outcomes.num_rows
        may_pass = pc.is_in(error_type, _RETRYABLE).to_pylist() if any_error else [False] * outcomes.num_rows
        copied: list[tuple[int, Place]] = []
        segment = self._segments[-1]
        first = segment.add(outcomes)
        for number, row in enumerate(outcomes.column("row").to_pylist(), first):
            text = self._texts.pop(row, None)
            if text is None:
                continue  # a row that has no request
            if self._asked.get(text) == row:
                del self._asked[text]
            place = (segment, number)
            if self._waiting and (followers := self._waiting.pop(row, None)):
                self.waiting_rows -= len(followers)
                copied.extend((follower, place) for follower in followers)
            if not may_pass[number - first] and text not in self._known:
                self._known[text] = place
                segment.texts.append(text)
                segment.bytes += sys.getsizeof(text)
        copies = _copies(copied)
        self._forget()
        return copies

    def _forget(self) -> None:
        if self._segments[-1].rows >= SEGMENT_ROWS:
            self._segments[-1].pack()
            self._segments.append(Segment())
        while sum(segment.bytes for segment in self._segments) > self._limit:
            for text in self._segments.popleft().texts:
                del self._known[text]
            if not self._segments:
                self._segments.append(Segment())


def _copies(known: Sequence[tuple[int, Place]]) -> list[pa.RecordBatch]:
    """The outcomes at the places as those of the rows, a batch for each segment that they come from."""
    by_segment: dict[int, tuple[Segment, list[int], list[int]]] = {}
    for row, (segment, number) in known:
        _, rows, numbers = by_segment.setdefault(id(segment), (segment, [], []))
        rows.append(row)
        numbers.append(number)
    copies = []
    for segment, rows, numbers in by_segment.values():
        taken = segment.pack().take(pa.array(np.array(numbers, np.int64)))
        column = taken.schema.get_field_index("row")
        copies.append(taken.set_column(column, taken.schema.field(column), pa.array(rows, pa.int64())))
    return copies
