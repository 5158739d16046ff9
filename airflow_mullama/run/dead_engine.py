"""Telling rows that fail from an engine that fails whatever it is asked: then no further row is spent on it."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from airflow_mullama.errors import EngineFailedError
from airflow_mullama.rows import ErrorType

# This many rows, one after the other, that do not end: then the rows are not to blame.
HANGS_IN_A_ROW = 50
# Likewise for rows that a server did not answer, all tries of each.
UNANSWERED_IN_A_ROW = 50
UNANSWERED_TYPES = frozenset({ErrorType.HTTP_ERROR.value, ErrorType.RATE_LIMITED.value})
# This many rows, the first of a session, all failing alike.
DEAD_ENGINE_ROWS = 16


class DeadEngineWatch:
    """Counts how rows end, one after the other.

    Args:
        engine: its name, for people.
    """

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._hangs = self._unanswered = 0
        self._first_errors: list[str] | None = []

    def tried(self, batch: pa.RecordBatch, attempts: Sequence[int]) -> None:
        """Rows came back, for good or to be asked again.

        Raises:
            EngineFailedError: all rows so far failed with the very same words.
        """
        if self._first_errors is None:
            return
        for error_type, message, attempt in zip(
            batch.column("error_type").to_pylist(), batch.column("error").to_pylist(), attempts, strict=True
        ):
            if attempt > 1 and error_type is not None:
                continue  # a row that fails again says nothing of the other rows
            if error_type != ErrorType.ENGINE_ERROR.value or (self._first_errors and message != self._first_errors[0]):
                self._first_errors = None
                return
            self._first_errors.append(message)
            if len(self._first_errors) >= DEAD_ENGINE_ROWS:
                raise EngineFailedError(
                    f"The engine {self._engine!r} is not working: the first {len(self._first_errors)} rows all failed "
                    f"with: {message}; no further row was spent on it."
                )

    def ended(self, batch: pa.RecordBatch) -> None:
        """Rows have their outcome.

        Raises:
            EngineFailedError: a server does not answer any row.
        """
        if batch.column("error_type").null_count:
            self._hangs = self._unanswered = 0
        elif set(batch.column("error_type").to_pylist()) - UNANSWERED_TYPES:
            self._unanswered = 0  # it refuses rows, so it is there
        else:
            self._unanswered += batch.num_rows
            if self._unanswered >= UNANSWERED_IN_A_ROW:
                raise EngineFailedError(
                    f"The server of the engine {self._engine!r} is not working: {self._unanswered} rows, one after the "
                    f"other, had no answer in all their tries, the last with: {batch.column('error')[-1].as_py()}; no "
                    "further row is spent on it."
                )

    def hung(self, rows: int) -> None:
        """So many rows did not end, in all their tries.

        Raises:
            EngineFailedError: no row ends.
        """
        self._hangs += rows
        if self._hangs >= HANGS_IN_A_ROW:
            raise EngineFailedError(
                f"The engine {self._engine!r} hangs: {self._hangs} rows, one after the other, were not finished within "
                "row_timeout and none was in between; no further row is spent on it."
            )
