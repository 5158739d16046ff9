"""What share of its rows each status, error and label has, and where that differs from what was accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_mullama.evaluation.accepted_file import read_accepted_file
from airflow_mullama.evaluation.intervals import share
from airflow_mullama.evaluation.outputs import OutputFile
from airflow_mullama.evaluation.scores import as_label
from airflow_mullama.storage.filesystems import Location

# A share that moved by less is of no interest, however many rows say so.
LEAST_DIFFERENCE = 0.1

Counts = Mapping[str, Mapping[str, int]]
"""Rows by value, of the status, the error type and each answer that has few values."""


@dataclass(frozen=True)
class Difference:
    """A share that is not what it was.

    Args:
        partition: whose.
        figure, value: which, such as ``label`` and ``billing``.
        share, accepted: now and then, 0 to 1.
        rows: of the partition.
    """

    partition: str
    figure: str
    value: str
    share: float
    accepted: float
    rows: int

    def to_json(self) -> dict[str, Any]:
        """As it goes to XCom."""
        return {**vars(self), "share": round(self.share, 4), "accepted": round(self.accepted, 4)}

    def __str__(self) -> str:
        now, then = f"{self.share:.1%}", f"{self.accepted:.1%}"
        return f"{self.figure} {self.value!r} of {self.partition} is {now} of {self.rows:,} rows, and was {then}"


def counts_of(file: OutputFile) -> Counts:
    """Count the rows of an output by status, error type, label, and the other answers that have few values."""
    closed = [name for name in file.answer_names if file.has_few_values(name)]
    names = ["status", "error_type", *closed]
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    for batch in file.batches([file.prefix + name for name in names]):
        for name in names:
            values = batch.column(file.prefix + name).drop_null().to_pylist()
            counts[name].update(map(as_label, values))
    return counts


def added(counts: Sequence[Counts]) -> dict[str, dict[str, int]]:
    """The sum of several."""
    total: dict[str, Counter[str]] = {}
    for one in counts:
        for figure, values in one.items():
            total.setdefault(figure, Counter()).update(values)
    return {figure: dict(sorted(values.items())) for figure, values in sorted(total.items())}


def differences(partition: str, counts: Counts, accepted: Counts) -> Iterator[Difference]:
    """Where shares of a partition differ from the accepted ones by more than its rows explain.

    A share differs if it moved by ten points or more, and what it was lies outside the interval of what it is.
    """
    rows, earlier_rows = (sum(one.get("status", {}).values()) for one in (counts, accepted))
    if not rows or not earlier_rows:
        return
    for figure in sorted({*counts, *accepted}):
        now, then = counts.get(figure, {}), accepted.get(figure, {})
        for value in sorted({*now, *then}):
            found, before = share(now.get(value, 0), rows), then.get(value, 0) / earlier_rows
            current, low, high = found.value or 0.0, found.low or 0.0, found.high or 0.0
            if abs(current - before) >= LEAST_DIFFERENCE and not low <= before <= high:
                yield Difference(partition, figure, value, current, before, rows)


def read_shares(location: Location) -> Counts | None:
    """What was accepted last; ``None`` before the first.

    Raises:
        InputUnreadableError: the file holds something else.
        StorageUnavailableError: it cannot be read.
    """

    def parse(value: Any) -> Counts:
        return {figure: {name: int(rows) for name, rows in values.items()} for figure, values in value.items()}

    return read_accepted_file(location, parse, what="accepted shares", keeper="summary")
