"""The same rows in two outputs, side by side: the files of one path below each, and their rows in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pat

from airflow_mullama.errors import ConfigurationError, InputUnreadableError
from airflow_mullama.evaluation.outputs import OutputFile, open_output
from airflow_mullama.storage.filesystems import Resolver, resolve_location


@dataclass(frozen=True)
class FilePair:
    """Two files that hold outcomes of the same rows."""

    first: OutputFile
    second: OutputFile

    @property
    def shared_inputs(self) -> tuple[str, ...]:
        """Columns that both had before their job, and that can be compared: they tell whether rows are the same."""
        others = set(self.second.input_names)
        return tuple(
            name
            for name in self.first.input_names
            if name in others and not pat.is_nested(self.first.schema.field(name).type)
        )

    def batches(
        self, first_names: Sequence[str], second_names: Sequence[str]
    ) -> Iterator[tuple[int, pa.RecordBatch, pa.RecordBatch]]:
        """Batches of the same rows: the number of the first row, and the wanted columns of both.

        Raises:
            InputUnreadableError: the files do not hold the same rows.
        """
        shared = self.shared_inputs
        first = self.first.batches([*first_names, *shared])
        second = self.second.batches([*second_names, *shared])
        start = 0
        for one, other in _aligned(first, second, self._differ):
            for name in shared:
                row = _first_difference(one.column(name), other.column(name))
                if row is not None:
                    raise self._differ(f"in row {start + row} their column {name!r} is not the same")
            yield start, one, other
            start += one.num_rows

    def _differ(self, how: str) -> InputUnreadableError:
        return InputUnreadableError(
            f"{self.first.location.url!r} and {self.second.location.url!r} do not hold the same rows: {how}. Compare "
            "two outputs of one input."
        )


def _first_difference(left: pa.Array, right: pa.Array) -> int | None:
    """The first place at which two columns differ; NaN counts as equal to NaN here."""
    if left.equals(right):
        return None
    pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
    return next((row for row, (a, b) in enumerate(pairs) if a != b and not (a != a and b != b)), None)


def open_pairs(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    prefixes: tuple[str | None, str | None] = (None, None),
    resolver: Resolver = resolve_location,
) -> list[FilePair]:
    """The files of two outputs, by their path below each.

    Raises:
        ConfigurationError: one has files that the other lacks, or they are of different kinds of jobs.
        InputNotFoundError, InputUnreadableError: there is no such output.
    """
    ones = open_output(first, output_prefix=prefixes[0], resolver=resolver)
    others = open_output(second, output_prefix=prefixes[1], resolver=resolver)
    if len(ones) == len(others) == 1:
        pairs = [FilePair(ones[0], others[0])]
    else:
        by_path = {file.relative: file for file in others}
        lone = sorted({file.relative for file in ones} ^ set(by_path))
        if lone:
            raise ConfigurationError(
                f"{os.fspath(first)!r} and {os.fspath(second)!r} do not hold the same partitions: {lone[0]!r} is in "
                "one of them only. Compare two outputs of one input."
            )
        pairs = [FilePair(file, by_path[file.relative]) for file in ones]
    for pair in pairs:
        if pair.first.answer_names != pair.second.answer_names:
            names = (", ".join(file.answer_names) for file in (pair.first, pair.second))
            raise ConfigurationError(
                f"The outputs have different answers ({' and '.join(names)}), which cannot be compared."
            )
    return pairs


def _aligned(
    first: Iterator[pa.RecordBatch], second: Iterator[pa.RecordBatch], differ: Callable[[str], Exception]
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Cut two streams of batches at the same rows."""
    one: pa.RecordBatch | None = None
    other: pa.RecordBatch | None = None
    while True:
        one = one if one is not None and one.num_rows else next(first, None)
        other = other if other is not None and other.num_rows else next(second, None)
        if one is None or other is None:
            if one is not None or other is not None:
                raise differ("one has more of them")
            return
        rows = min(one.num_rows, other.num_rows)
        if rows:
            yield one.slice(0, rows), other.slice(0, rows)
        one, other = one.slice(rows), other.slice(rows)
