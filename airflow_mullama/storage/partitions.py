"""What the units of work are, and where each one's output goes.

A partition is one Parquet file, or one directory that holds Parquet files directly. Its output's path depends on the
input's path alone, never on what else is processed with it, so that a retry, a backfill or another grouping of tasks
finds it again. Names that begin with ``_`` or ``.`` are not data (the convention of Hive, Spark and Arrow).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs

from airflow_mullama.errors import ConfigurationError, InputNotFoundError
from airflow_mullama.storage.filesystems import Location, Resolver, resolve_location
from airflow_mullama.storage.hive import HIVE_SEGMENT, HiveFilter, describe_values, hive_values
from airflow_mullama.storage.listing import PARQUET_SUFFIXES, KeysSeen, is_data, list_leaves

log = logging.getLogger(__name__)

DIRECTORY_OUTPUT_NAME = "part-00000.parquet"


@dataclass(frozen=True)
class Partition:
    """One unit of work.

    Args:
        input: the file or directory.
        files: the Parquet files in it, in the order of their names.
        output: the Parquet file it becomes.
        size: bytes of its files when they were listed.
    """

    input: Location
    files: tuple[Location, ...]
    output: Location
    size: int = 0


def discover_partitions(
    input_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    resolver: Resolver = resolve_location,
    *,
    where: Mapping[str, Any] | None = None,
    leave_out_missing: bool = False,
) -> list[Partition]:
    """Find the partitions of ``input_path`` and name each one's output.

    Args:
        input_path: a file, a directory, or a list of them. A directory that holds Parquet files is one partition; one
            that holds only directories stands for the partitions below it.
        output_path: a ``.parquet`` file for a single partition, else the directory below which outputs lie: hive
            segments (``ds=2026-01-31``) and the file's name are kept. Or a list, one path for each input path.
        resolver: opens paths and URLs.
        where: only partitions with these values of hive keys: :class:`airflow_mullama.storage.hive.HiveFilter`.
        leave_out_missing: an input that is not there is left out, with a line in the log; there may be no partition.

    Raises:
        InputNotFoundError: nothing there, no Parquet file in it, or no partition that ``where`` wants.
        InputUnreadableError: a hive directory holds files, and none is Parquet.
        ConfigurationError: two partitions would have the same output, an output would overwrite an input, the two
            paths lie in each other, or ``where`` names what is no hive key.
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
    wanted = None if where is None else HiveFilter.parse(where)
    seen = KeysSeen()
    partitions: list[Partition] = []
    places: list[tuple[Location, Location]] = []
    for one_input, one_output in zip(inputs, outputs, strict=True):
        source, output = resolver(one_input), resolver(one_output)
        places.append((source, output))
        try:
            partitions.extend(_partitions_of(source, output, wanted, seen))
        except InputNotFoundError as error:
            if not leave_out_missing:
                raise
            log.info("left out: %s", error)
    if wanted is not None and not partitions:
        _explain_no_match(inputs, wanted, seen, leave_out_missing)
    _refuse_collisions(partitions)
    for source, output in places:
        _refuse_input_below(source, output)
    return partitions


def _as_list(value: object, name: str) -> list[str]:
    if isinstance(value, (str, os.PathLike)):
        return [os.fspath(value)]
    if isinstance(value, Iterable):
        paths = list(value)
        if paths and all(isinstance(path, (str, os.PathLike)) for path in paths):
            return [os.fspath(path) for path in paths]
    raise ConfigurationError(f"{name} is {value!r}; it must be a path or URL, or a list of at least one.")


def _partitions_of(source: Location, output: Location, where: HiveFilter | None, seen: KeysSeen) -> list[Partition]:
    info = source.info()
    if info.type == pafs.FileType.File:
        seen.reached_files = True
        seen.add(source.parent.path)
        if where is not None and not where.matches(hive_values(source.parent.path)):
            return []
        target = _output_of(source.name, _hive_segments(source.parent), output)
        return [Partition(source, (source,), target, info.size or 0)]
    if info.type != pafs.FileType.Directory:
        raise InputNotFoundError(f"There is no file or directory at {source.url!r}: check input_path.")
    _refuse_output_below(source, output)
    seen.add(source.path)
    leaves = list_leaves(source, where, seen)
    if not leaves and (where is None or not (seen.values or seen.reached_files)):
        raise InputNotFoundError(
            f"The directory {source.url!r} holds no Parquet file (names ending in {', '.join(PARQUET_SUFFIXES)}, not "
            "beginning with '_' or '.')."
        )
    partitions = []
    for leaf in leaves:
        place = source.join(leaf.relative) if leaf.relative else source
        if leaf.relative:
            segments = [*_hive_segments(source), *leaf.relative.split("/")]
            name = DIRECTORY_OUTPUT_NAME
        else:
            segments = _hive_segments(source)
            name = DIRECTORY_OUTPUT_NAME if HIVE_SEGMENT.match(source.name) else f"{source.name}.parquet"
        if leaf.relative and _names_a_file(output):
            raise ConfigurationError(
                f"output_path {output.url!r} is one file and {source.url!r} holds {len(leaves)} partition(s) in "
                "subdirectories; give a directory."
            )
        partitions.append(Partition(place, leaf.files, _output_of(name, segments, output), leaf.size))
    return partitions


def _refuse_output_below(source: Location, output: Location) -> None:
    if output.path == source.path:
        raise ConfigurationError(
            f"input_path and output_path are both {source.url!r}, so the next run would take the outputs for input; "
            "give an output_path outside of it."
        )
    below = output.path.removeprefix(f"{source.path}/")
    if below != output.path and all(map(is_data, below.split("/"))):
        raise ConfigurationError(
            f"output_path {output.url!r} lies below input_path {source.url!r}, so the next run would take the outputs "
            "for input; give an output_path outside of it."
        )


def _explain_no_match(inputs: Sequence[str], where: HiveFilter, seen: KeysSeen, leave_out_missing: bool) -> None:
    """Nothing is wanted: because of a key that is none, or because there is no such partition."""
    place = repr(inputs[0]) + (f" and {len(inputs) - 1} more" if len(inputs) > 1 else "")
    unknown = [key for key in where.keys if key not in seen.values]
    if unknown and seen.reached_files:
        known = ", ".join(map(repr, sorted(seen.values)))
        raise ConfigurationError(
            f"where names {', '.join(map(repr, unknown))}, and the paths of {place} have "
            + (f"the hive key(s) {known}" if known else "no hive keys (such as ds=2026-01-31)")
            + "; correct the key, or leave where out."
        )
    there = "; ".join(f"{key} {describe_values(seen.values[key])}" for key in where.keys if key in seen.values)
    sentence = f"No partition of {place} matches where ({where})" + (f"; those there have {there}" if there else "")
    if not leave_out_missing:
        raise InputNotFoundError(f"{sentence}: correct it, or set if_input_missing if there need not be one.")
    log.info("%s", sentence)


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


def _output_of(name: str, segments: Sequence[str], output: Location) -> Location:
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


def _refuse_input_below(source: Location, output: Location) -> None:
    below = source.path.removeprefix(f"{output.path}/")
    if below != source.path and not _names_a_file(output) and all(map(is_data, below.split("/"))):
        raise ConfigurationError(
            f"input_path {source.url!r} lies below output_path {output.url!r}, so whoever reads the outputs would read "
            "the inputs with them; give an output_path beside it."
        )
