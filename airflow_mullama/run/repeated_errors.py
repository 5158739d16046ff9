"""Telling a server that fails for a moment from one that fails for a row, whenever it is asked."""

from __future__ import annotations

import re

import pyarrow as pa

from airflow_mullama.rows import ErrorType

# What the engine `openai` says of a status 5xx (`airflow_mullama.engines.openai.answers.row_error`).
_SERVER_FAILED = re.compile(r"the server answers 5\d\d")


class RepeatedErrors:
    """Remembers how the tries of rows failed.

    A status 5xx means that the server failed, and may pass. Where all tries of a row had the very same words while the
    server answered others, it is the row that it fails on: asking once more, now or in the next attempt, is a waste.
    """

    def __init__(self) -> None:
        self._answered = 0
        self._first: dict[int, tuple[str, int]] = {}

    def answered(self, batch: pa.RecordBatch) -> None:
        """Rows came back, some of them perhaps with a result."""
        results = batch.column("error_type").null_count
        self._answered += results
        if self._first and results == batch.num_rows:
            for row in batch.column("row").to_pylist():
                self._first.pop(row, None)

    def failed(self, row: int, error_type: str, message: str) -> None:
        """A try of a row failed, and there will be another."""
        same = error_type == ErrorType.HTTP_ERROR.value and _SERVER_FAILED.match(message)
        first, answered = self._first.setdefault(row, (message, self._answered))
        if not same or first != message:
            self._first[row] = ("", answered)

    def is_the_rows_own(self, row: int, error_type: str, message: str) -> bool:
        """Whether the last try of a row failed as all the others did, while other rows were answered."""
        first, answered = self._first.pop(row, ("", self._answered))
        return error_type == ErrorType.HTTP_ERROR.value and message == first and self._answered > answered
