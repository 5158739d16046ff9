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

_RETRYABLE = pa.array(RETRYABLE_ERROR_TYPES)

Place = tuple[pa.RecordBatch, int]


class Duplicates:
    """Knows which requests were asked and what came back.

    Args:
        remembered_bytes: how much is remembered of requests that have their outcome.
    """

    def __init__(self, remembered_bytes: int = REMEMBERED_BYTES) -> None:
        self._limit = remembered_bytes
        self._asked: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._waiting: dict[int, list[int]] = {}
        self._known: dict[str, Place] = {}
        self._remembered: deque[tuple[list[str], int]] = deque()
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
        asked_rows: list[int] = []
        asked_texts: list[str] = []
        known: list[tuple[int, Place]] = []
        for row, text in zip(rows, texts, strict=True):
            leader = self._asked.get(text)
            if leader is not None:
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

    def settle(self, outcomes: pa.RecordBatch) -> tuple[list[pa.RecordBatch], list[int], list[str]]:
        """Take note of what came back.

        Args:
            outcomes: rows of chunks that were asked.

        Returns:
            What the rows get that waited for these; and the rows, with their requests, that must be asked after all,
            because the one they waited for failed in a way that may pass.
        """
        may_pass = pc.is_in(outcomes.column("error_type"), _RETRYABLE).to_pylist()
        copied: list[tuple[int, Place]] = []
        again: list[tuple[int, str]] = []
        learned: list[str] = []
        for number, row in enumerate(outcomes.column("row").to_pylist()):
            text = self._texts.pop(row, None)
            if text is None:
                continue  # a row that has no request
            del self._asked[text]
            followers = self._waiting.pop(row, None) or []
            self.waiting_rows -= len(followers)
            if may_pass[number]:
                again.extend((follower, text) for follower in followers)
            else:
                self._known[text] = (outcomes, number)
                learned.append(text)
                copied.extend((follower, (outcomes, number)) for follower in followers)
        self._remember(learned, outcomes.nbytes)
        rows, texts, _ = self.sift([row for row, _ in again], [text for _, text in again])
        return _copies(copied), rows, texts

    def _remember(self, texts: list[str], outcome_bytes: int) -> None:
        if not texts:
            return
        size = outcome_bytes + sum(map(sys.getsizeof, texts))
        self._remembered.append((texts, size))
        self._bytes += size
        while self._bytes > self._limit:
            forgotten, freed = self._remembered.popleft()
            self._bytes -= freed
            for text in forgotten:
                del self._known[text]


def _copies(known: Sequence[tuple[int, Place]]) -> list[pa.RecordBatch]:
    """The outcomes at the places as those of the rows, a batch for each batch that they come from."""
    by_batch: dict[int, tuple[pa.RecordBatch, list[int], list[int]]] = {}
    for row, (batch, number) in known:
        _, rows, numbers = by_batch.setdefault(id(batch), (batch, [], []))
        rows.append(row)
        numbers.append(number)
    copies = []
    for batch, rows, numbers in by_batch.values():
        taken = batch.take(pa.array(np.array(numbers, np.int64)))
        column = taken.schema.get_field_index("row")
        copies.append(taken.set_column(column, taken.schema.field(column), pa.array(rows, pa.int64())))
    return copies
