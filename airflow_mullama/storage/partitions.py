"""What the units of work are, and where each one's output goes.

A partition is one Parquet file, or one directory that holds Parquet files directly. Its output's path depends on the
input's path alone, never on what else is processed with it, so that a retry, a backfill or another grouping of tasks
finds it again. Names that begin with ``_`` or ``.`` are not data (the convention of Hive, Spark and Arrow).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import pyarrow as pa
import pyarrow.fs as pafs

from airflow_mullama.errors import ConfigurationError, InputNotFoundError
from airflow_mullama.storage.filesystems import Location, Resolver, resolve_location

PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
HIVE_SEGMENT = re.compile(r"^[^/=]+=[^/]*$")
DIRECTORY_OUTPUT_NAME = "part-00000.parquet"
MAX_MAP_LENGTH = 1024  # Airflow's default [core] max_map_length


@dataclass(frozen=True)
class Partition:
    """One unit of work.

    Args:
        input: the file or directory.
        files: the Parquet files in it, in the order of their names.
        output: the Parquet file it becomes.
    """

    input: Location
    files: tuple[Location, ...]
    output: Location


class PartitionArguments(TypedDict):
    """Keyword arguments of an operator, for ``.expand_kwargs``."""

    input_path: str | list[str]
    output_path: str | list[str]


def discover_partitions(
    input_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    resolver: Resolver = resolve_location,
) -> list[Partition]:
    """Find the partitions of ``input_path`` and name each one's output.

    Args:
        input_path: a file, a directory, or a list of them. A directory that holds Parquet files is one partition; one
            that holds only directories stands for the partitions below it.
        output_path: a ``.parquet`` file for a single partition, else the directory below which outputs lie: hive
            segments (``ds=2026-01-31``) and the file's name are kept. Or a list, one path for each input path.

    Raises:
        InputNotFoundError: nothing there, or no Parquet file in it.
        ConfigurationError: two partitions would have the same output, or an output would overwrite an input.
    """
    inputs = _as_list(input_path, "input_path")
    outputs = _as_list(output_path, "output_path")
    if isinstance(output_path, (str, os.PathLike)):
        outputs = outputs * len(inputs)
    elif len(outputs) != len(inputs):
        raise ConfigurationError(
            f"output_path is a list of {len(outputs)} and input_path one of {len(inputs)}; give one output for each "
            "input, or one directory for all."
        )
    partitions: list[Partition] = []
    for one_input, one_output in zip(inputs, outputs, strict=True):
        partitions.extend(_partitions_of(resolver(one_input), resolver(one_output), resolver))
    _refuse_collisions(partitions)
    return partitions


def list_partitions(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    max_tasks: int | None = None,
) -> list[PartitionArguments]:
    """List partitions as arguments for mapped tasks: ``Operator.partial(...).expand_kwargs(list_partitions(...))``.

    Args:
        path: a file, a directory or a list of them, on any filesystem.
        output: the directory below which the outputs go.
        max_tasks: at most so many items; neighbours share one. Never more than Airflow's ``max_map_length`` of 1024.

    Returns:
        In stable order, ``{"input_path": ..., "output_path": ...}`` for each task: texts where it has one partition,
        lists where it has several.
    """
    limit = MAX_MAP_LENGTH if max_tasks is None else max_tasks
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_MAP_LENGTH:
        raise ConfigurationError(f"max_tasks is {max_tasks!r}; it must be a whole number from 1 to {MAX_MAP_LENGTH}.")
    partitions = discover_partitions(path, output)
    count = min(limit, len(partitions))
    arguments: list[PartitionArguments] = []
    for number in range(count):
        group = partitions[number * len(partitions) // count : (number + 1) * len(partitions) // count]
        inputs, outputs = [str(one.input) for one in group], [str(one.output) for one in group]
        if len(group) == 1:
            arguments.append({"input_path": inputs[0], "output_path": outputs[0]})
        else:
            arguments.append({"input_path": inputs, "output_path": outputs})
    return arguments


def _as_list(value: object, name: str) -> list[str]:
    if isinstance(value, (str, os.PathLike)):
        return [os.fspath(value)]
    if isinstance(value, Iterable):
        paths = list(value)
        if paths and all(isinstance(path, (str, os.PathLike)) for path in paths):
            return [os.fspath(path) for path in paths]
    raise ConfigurationError(f"{name} is {value!r}; it must be a path or URL, or a list of at least one.")


def _is_data(name: str) -> bool:
    return not name.startswith(("_", "."))


def _is_parquet(name: str) -> bool:
    return _is_data(name) and name.lower().endswith(PARQUET_SUFFIXES)


def _partitions_of(source: Location, output: Location, resolver: Resolver) -> list[Partition]:
    try:
        info = source.info()
    except (pa.ArrowException, OSError) as error:
        raise InputNotFoundError(f"The input {source.url!r} cannot be looked up: {error}.") from error
    if info.type == pafs.FileType.File:
        return [Partition(source, (source,), _output_of(source, source.name, _hive_segments(source.parent), output))]
    if info.type != pafs.FileType.Directory:
        raise InputNotFoundError(f"There is no file or directory at {source.url!r}: check input_path.")
    leaves = _leaf_directories(source)
    if not leaves:
        raise InputNotFoundError(
            f"The directory {source.url!r} holds no Parquet file (names ending in {', '.join(PARQUET_SUFFIXES)}, not "
            "beginning with '_' or '.')."
        )
    below = output.path.removeprefix(f"{source.path}/")
    if below != output.path and all(map(_is_data, below.split("/"))):
        raise ConfigurationError(
            f"output_path {output.url!r} lies below input_path {source.url!r}, so the next run would take the outputs "
            "for input; give an output_path outside of it."
        )
    partitions = []
    for relative, files in leaves:
        leaf = source.join(relative) if relative else source
        if relative:
            segments = [*_hive_segments(source), *relative.split("/")]
            name = DIRECTORY_OUTPUT_NAME
        else:
            segments = _hive_segments(source)
            name = DIRECTORY_OUTPUT_NAME if HIVE_SEGMENT.match(source.name) else f"{source.name}.parquet"
        if relative and _names_a_file(output):
            raise ConfigurationError(
                f"output_path {output.url!r} is one file and {source.url!r} holds {len(leaves)} partition(s) in "
                "subdirectories; give a directory."
            )
        partitions.append(Partition(leaf, tuple(files), _output_of(leaf, name, segments, output)))
    return partitions


def _leaf_directories(source: Location) -> list[tuple[str, list[Location]]]:
    """Directories below (or at) ``source`` that hold Parquet files directly, with the files, in order of path."""
    selector = pafs.FileSelector(source.path, recursive=True)
    by_directory: dict[str, list[Location]] = {}
    for info in source.filesystem.get_file_info(selector):
        relative = info.path[len(source.path) :].strip("/")
        *directories, name = relative.split("/")
        if info.type == pafs.FileType.File and _is_parquet(name) and all(map(_is_data, directories)):
            by_directory.setdefault("/".join(directories), []).append(source.join(relative))
    return [
        (directory, sorted(by_directory[directory], key=lambda file: file.path)) for directory in sorted(by_directory)
    ]


def _hive_segments(location: Location) -> list[str]:
    """The unbroken run of ``key=value`` segments at the end of a directory's path."""
    segments: list[str] = []
    for segment in reversed(location.path.split("/")):
        if not HIVE_SEGMENT.match(segment):
            break
        segments.insert(0, segment)
    return segments


def _names_a_file(output: Location) -> bool:
    return output.name.lower().endswith(PARQUET_SUFFIXES)


def _output_of(source: Location, name: str, segments: Sequence[str], output: Location) -> Location:
    if _names_a_file(output):
        return output
    present = _hive_segments(output)
    missing = [segment for segment in segments if segment not in present]
    return output.join(*missing, name)


def _refuse_collisions(partitions: Sequence[Partition]) -> None:
    inputs = {file.path: file for partition in partitions for file in partition.files}
    directories = {partition.input.path for partition in partitions if partition.files != (partition.input,)}
    seen: dict[str, Partition] = {}
    for partition in partitions:
        path = partition.output.path
        if path in inputs:
            raise ConfigurationError(
                f"The output {partition.output.url!r} would overwrite an input; give another output_path."
            )
        if partition.output.parent.path in directories:
            raise ConfigurationError(
                f"The output {partition.output.url!r} would lie among the input files of its directory, and the next "
                "run would take it for one; give another output_path."
            )
        if path in seen:
            raise ConfigurationError(
                f"The inputs {seen[path].input.url!r} and {partition.input.url!r} would both be written to "
                f"{partition.output.url!r}; give output_path as a list, one for each input."
            )
        seen[path] = partition
