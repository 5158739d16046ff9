"""Which partitions have changed since their outputs were made: the outputs themselves say what they were made of.

Nothing is kept elsewhere, so that nothing can be lost or out of step: an output that was removed, or that was never
whole, is made again. Tables say from their logs what their partitions are; of files the footers are read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from airflow_mullama.background import map_ahead
from airflow_mullama.storage.partition_output import PublishedOutput
from airflow_mullama.storage.partitions import Partition
from airflow_mullama.storage.tables.input import TableSource
from airflow_mullama.storage.tables.output import TableOutput
from airflow_mullama.storage.tables.table import Table, require_table

log = logging.getLogger(__name__)

FOOTERS_AT_ONCE = 16

Known = TypeVar("Known")


def changed_partitions(partitions: Sequence[Partition]) -> list[Partition]:
    """Those without an output of their present state, or with rows in it that are to be tried again.

    Raises:
        InputUnreadableError, StorageUnavailableError
    """
    tables = _Tables()
    for partition in partitions:  # each table is asked once, before it is asked about
        tables.know(partition)
    changed = list(map_ahead(tables.is_changed, partitions, FOOTERS_AT_ONCE, "mullama-footers"))
    found = [partition for partition, is_changed in zip(partitions, changed, strict=True) if is_changed]
    log.info("%d of %d partition(s) have changed since they were last processed", len(found), len(partitions))
    return found


class _Tables:
    """The state that each table was found in."""

    def __init__(self) -> None:
        self._inputs: dict[int, Table] = {}
        self._outputs: dict[int, Table | None] = {}

    def know(self, partition: Partition) -> None:
        if isinstance(partition.table, TableSource):
            handle = partition.table.handle
            _ask_once(self._inputs, id(handle), lambda: require_table(handle))
        if isinstance(partition.table_output, TableOutput):
            _ask_once(self._outputs, id(partition.table_output.writer), partition.table_output.writer.current)

    def is_changed(self, partition: Partition) -> bool:
        published = self._published(partition)
        if published is None or published.manifest.retryable_rows:
            return True
        return published.manifest.input_identity != self._identity(partition)

    def _published(self, partition: Partition) -> PublishedOutput | None:
        output = partition.table_output
        if isinstance(output, TableOutput):
            return output.published_in(self._outputs[id(output.writer)])
        return partition.target.published()

    def _identity(self, partition: Partition) -> str:
        if isinstance(partition.table, TableSource):
            return partition.table.open_in(self._inputs[id(partition.table.handle)]).identity
        return partition.open().identity


def _ask_once(known: dict[int, Known], key: int, ask: Callable[[], Known]) -> None:
    if key not in known:
        known[key] = ask()
