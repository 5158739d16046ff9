"""Partitions as the arguments of mapped tasks: which there are, and which of them share a task."""

from __future__ import annotations

import heapq
import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from airflow_mullama.arguments import OneOf, OrNone, Whole, require
from airflow_mullama.background import map_ahead
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.storage.addresses import shown_address
from airflow_mullama.storage.changed_partitions import changed_partitions
from airflow_mullama.storage.filesystems import Resolver, resolve_location
from airflow_mullama.storage.hive import hive_run
from airflow_mullama.storage.partition_input import count_rows
from airflow_mullama.storage.partitions import Partition, discover_partitions

log = logging.getLogger(__name__)

BALANCE = ("bytes", "rows")
IF_INPUT_MISSING = ("fail", "empty")
MAX_MAP_LENGTH = 1024  # Airflow's default [core] max_map_length
MAX_NAME_LENGTH = 250  # what Airflow keeps of a mapped task's name
FOOTERS_AT_ONCE = 16


class PartitionArguments(TypedDict):
    """Keyword arguments of an operator, for ``.expand_kwargs``."""

    input_path: str | list[str]
    output_path: str | list[str]


def list_partitions(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    where: Mapping[str, Any] | None = None,
    max_tasks: int | None = None,
    balance: Literal["bytes", "rows"] = "bytes",
    if_input_missing: Literal["fail", "empty"] = "fail",
    incremental: bool = False,
    resolver: Resolver | None = None,
    max_map_length: int | None = None,
) -> list[PartitionArguments]:
    """List partitions as arguments for mapped tasks: ``Operator.partial(...).expand_kwargs(list_partitions(...))``.

    Args:
        path: a file, a directory or a list of them, on any filesystem.
        output: the directory below which the outputs go.
        where: only partitions with these values of hive keys: ``{"ds": "2026-01-31"}``, ``{"ds": [...]}`` or, both ends
            included, ``{"ds": {"from": "2026-01-01", "to": "2026-01-31"}}``. Several keys must all match.
        max_tasks: at most this many items, among which the partitions are balanced; ``None``: one for each partition.
            Never more than Airflow maps.
        balance: what is evened out among the tasks: ``bytes`` of the files, or ``rows``, for which the footer of
            every file is read, and all of a file that is not Parquet.
        if_input_missing: where there is no partition, or none that ``where`` wants: ``fail``, or return an ``empty``
            list, over which Airflow maps no task.
        incremental: only partitions that changed since their output was made, or whose output has rows to be tried
            again; there may be none.
        resolver: opens paths and URLs; ``None``: with Airflow's connections where Airflow is loaded.
        max_map_length: the most items; ``None``: ``[core] max_map_length`` of Airflow where it is loaded, else 1024.

    Returns:
        In stable order, ``{"input_path": ..., "output_path": ...}`` for each task: texts where it has one partition,
        lists where it has several.

    Raises:
        InputNotFoundError: nothing there, and ``if_input_missing="fail"``.
        ConfigurationError: an argument that cannot work, such as a key of ``where`` that is not a hive key.
    """
    require("max_tasks", max_tasks, OrNone(Whole(1)))
    require("balance", balance, OneOf(BALANCE))
    require("if_input_missing", if_input_missing, OneOf(IF_INPUT_MISSING))
    require("incremental", incremental, OneOf((True, False)))
    airflow_resolver, airflow_limit = _of_airflow()
    partitions = discover_partitions(
        path, output, resolver or airflow_resolver, where=where, leave_out_missing=if_input_missing == "empty"
    )
    if incremental:
        partitions = changed_partitions(partitions)
    count = _task_count(len(partitions), max_tasks, max_map_length or airflow_limit)
    if count == len(partitions):
        groups = [[partition] for partition in partitions]
    else:
        groups = balanced_groups(partitions, _weights(partitions, balance), count)
    log.info("%d partition(s) in %d task(s)", len(partitions), len(groups))
    return [_arguments(group) for group in groups]


def balanced_groups(partitions: Sequence[Partition], weights: Sequence[int], count: int) -> list[list[Partition]]:
    """Share partitions among ``count`` groups: the heaviest first, each to the group that has least so far.

    The same partitions give the same groups; each is in the order of ``partitions``, as are the groups by their first.
    No group is empty, and the heaviest has at most 4/3 of what the best sharing would give it (Graham, 1969).
    """
    heaviest_first = sorted(range(len(partitions)), key=lambda index: (-weights[index], index))
    # A partition without bytes is still one to open: the second number spreads those.
    lightest = [(0, 0, group) for group in range(count)]
    groups: list[list[int]] = [[] for _ in range(count)]
    for index in heaviest_first:
        weight, members, group = heapq.heappop(lightest)
        groups[group].append(index)
        heapq.heappush(lightest, (weight + weights[index], members + 1, group))
    ordered = sorted(sorted(group) for group in groups)
    return [[partitions[index] for index in group] for group in ordered]


def partition_name(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> str:
    """What a task is called that has these inputs: hive segments or file names, not whole paths."""
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths or ())
    if not listed:
        raise ConfigurationError("input_path is empty; give a path or URL, or a list of at least one.")
    names = [_short_name(os.fspath(path)) for path in listed]
    shown = ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2} more"
    return shown if len(shown) <= MAX_NAME_LENGTH else f"{shown[: MAX_NAME_LENGTH - 1]}…"


def _short_name(path: str) -> str:
    *above, last = shown_address(path).rstrip("/").split("/")
    return "/".join([*hive_run(above), last])


def _of_airflow() -> tuple[Resolver, int]:
    """How paths are opened and how many tasks are mapped: as Airflow does, in a process that has loaded it anyway."""
    if "airflow.sdk" not in sys.modules:
        return resolve_location, MAX_MAP_LENGTH
    in_task = importlib.import_module("airflow_mullama.hooks.filesystems")
    return in_task.resolve_in_task, in_task.max_map_length()


def _task_count(partitions: int, max_tasks: int | None, limit: int) -> int:
    count = min(partitions, max_tasks or partitions)
    if count > limit:
        log.info(
            "%d tasks would be more than Airflow maps ([core] max_map_length is %d): %d partitions share %d tasks",
            count,
            limit,
            partitions,
            limit,
        )
    return min(count, limit)


def _weights(partitions: Sequence[Partition], balance: str) -> list[int]:
    if balance == "bytes":
        return [partition.size for partition in partitions]
    return list(map_ahead(_rows, partitions, FOOTERS_AT_ONCE, "mullama-footers"))


def _rows(partition: Partition) -> int:
    return count_rows(partition.files) if partition.table is None else partition.open().rows


def _arguments(group: Sequence[Partition]) -> PartitionArguments:
    inputs, outputs = [one.input.address for one in group], [one.output.address for one in group]
    if len(group) == 1:
        return {"input_path": inputs[0], "output_path": outputs[0]}
    return {"input_path": inputs, "output_path": outputs}
