"""Some rows of a partition, as a partition: those that a limit or a sample chose."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_mullama.errors import InputChangedError
from airflow_mullama.storage.derived_input import DerivedInput
from airflow_mullama.storage.partition_input import PartitionInput
from airflow_mullama.storage.partition_input import with_exact_timestamps as with_exact_timestamps_of_all

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SampledInput(DerivedInput):
    """The chosen rows of a partition, in its order.

    Args:
        whole: the partition.
        chosen: ``int64[n]``, ascending: numbers of rows in it.
    """

    whole: PartitionInput
    chosen: Rows

    @property
    def schema(self) -> pa.Schema:
        """Of the whole."""
        return self.whole.schema

    @property
    def identity(self) -> str:
        """Another one than that of the whole, and of other rows of it."""
        return hashlib.sha256(self.whole.identity.encode() + self.chosen.tobytes()).hexdigest()

    @property
    def rows(self) -> int:
        """How many are chosen."""
        return len(self.chosen)

    @property
    def unreadable_rows(self) -> Mapping[int, str]:
        """Those that are chosen, by their place among the chosen."""
        unreadable = self.whole.unreadable_rows
        if not unreadable:
            return {}
        return {place: unreadable[row] for place, row in enumerate(self.chosen.tolist()) if row in unreadable}

    def batches(self, columns: Sequence[str] | None = None, *, first_row: int = 0) -> Iterator[pa.RecordBatch]:
        """Stream the chosen rows from the ``first_row``-th of them on."""
        wanted = self.chosen[first_row:]
        if not len(wanted):
            return
        start = int(wanted[0])
        for batch in self.whole.batches(columns, first_row=start):
            stop = start + batch.num_rows
            here = wanted[: np.searchsorted(wanted, stop)]
            if len(here):
                yield batch if len(here) == batch.num_rows else batch.take(pa.array(here - start))
                wanted = wanted[len(here) :]
                if not len(wanted):
                    return
            start = stop
        raise InputChangedError(
            f"The input {self.whole.files[0].location.parent.url!r} has fewer rows than when they were chosen: it was "
            "changed; run the task again."
            if self.whole.files
            else "The input has fewer rows than when they were chosen: it was changed; run the task again."
        )


def with_exact_timestamps(source: PartitionInput, check_stopped: Callable[[], None]) -> PartitionInput:
    """As :func:`airflow_mullama.storage.partition_input.with_exact_timestamps`, also where rows were chosen."""
    if isinstance(source, SampledInput):
        return replace(source, whole=with_exact_timestamps(source.whole, check_stopped))
    return with_exact_timestamps_of_all(source, check_stopped)


def first_rows(counts: Sequence[int], limit: int) -> list[Rows]:
    """The first rows of several partitions.

    Args:
        counts: rows of each.
        limit: of all together.
    """
    chosen = []
    for count in counts:
        chosen.append(np.arange(min(count, limit), dtype=np.int64))
        limit -= len(chosen[-1])
    return chosen


def drawn_rows(counts: Sequence[int], sample: int, seed: int) -> list[Rows]:
    """Rows of several partitions, each with the same chance, none twice; all of them if there are no more.

    Args:
        counts: rows of each.
        sample: how many of all together.
        seed: the same one draws the same rows.
    """
    total = sum(counts)
    drawn = np.sort(np.random.default_rng(seed).choice(total, min(sample, total), replace=False, shuffle=False))
    ends = np.cumsum([0, *counts])
    return [
        drawn[np.searchsorted(drawn, start) : np.searchsorted(drawn, stop)].astype(np.int64) - start
        for start, stop in itertools.pairwise(ends)
    ]
