"""What the units of work are, and where each one's output goes.

A partition is one file of Parquet, JSON Lines or CSV, or one directory that holds such files directly, all of one
format. Its output's path depends on the input's path alone, never on what else is processed with it, so that a retry, a
backfill or another grouping of tasks finds it again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Union

import pyarrow.fs as pafs

from airflow_mullama.background import map_ahead
from airflow_mullama.errors import ConfigurationError, InputNotFoundError, InputUnreadableError, MullamaError
from airflow_mullama.storage.addresses import scheme_of, shown_address, table_format
from airflow_mullama.storage.filesystems import Location, Resolver, resolve_location
from airflow_mullama.storage.hive import (
    DATA_SUFFIXES,
    DataFormat,
    HiveValues,
    as_parquet_name,
    data_format,
    hive_run,
    hive_values,
    is_data,
    is_hive_segment,
    is_parquet,
)
from airflow_mullama.storage.hive_filter import HiveFilter, describe_values
from airflow_mullama.storage.links import kind_of_file, refuse_output_through_link
from airflow_mullama.storage.listing import KeysSeen, list_leaves
from airflow_mullama.storage.parquet.output import FileOutput
from airflow_mullama.storage.parquet.unified_schema import SchemaDrift
from airflow_mullama.storage.partition_input import PartitionInput, PartitionSource, format_of, open_partition
from airflow_mullama.storage.partition_output import PartitionOutput
from airflow_mullama.storage.places import place_of
from airflow_mullama.storage.table_formats import refuse_part_of_table
from airflow_mullama.storage.tables.formats import open_table_writer
from airflow_mullama.storage.tables.keys import key_segments, split_address
from airflow_mullama.storage.tables.partitions import FoundPartition, partition_output, table_partitions

log = logging.getLogger(__name__)

Paths = Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]]]

# Of a store, each input costs a few requests.
LISTED_AT_ONCE = 16

DIRECTORY_OUTPUT_NAME = "part-00000.parquet"


@dataclass(frozen=True)
class Partition:
    """One unit of work.

    Args:
        input: the file or directory.
        files: the data files in it, in the order of their names.
        output: what it becomes: a Parquet file, or a partition of a table.
        size: bytes of its files when they were listed.
        table: where its rows are those of a table's partition, that.
        table_output: where it becomes a table's partition, that.
    """

    input: Location
    files: tuple[Location, ...]
    output: Location
    size: int = 0
    table: PartitionSource | None = None
    table_output: PartitionOutput | None = None

    def open(
        self, schema_drift: SchemaDrift = "promote", check_stopped: Callable[[], None] = lambda: None
    ) -> PartitionInput:
        """Read what its files say of themselves, as they are now.

        Args:
            schema_drift: what to do about files whose schemas differ; a table has one schema.
            check_stopped: called often; raises to give up.

        Raises:
            InputNotFoundError, InputUnreadableError, StorageUnavailableError
        """
        if self.table is not None:
            return self.table.open()
        return open_partition(self.files, schema_drift=schema_drift, check_stopped=check_stopped)

    @property
    def waits_for_store(self) -> bool:
        """Whether it is read from a store of files or written to one, where most of the time is waiting."""
        of_table = self.table is not None or self.table_output is not None
        return not of_table and not (self.input.is_local and self.output.is_local)

    @property
    def target(self) -> PartitionOutput:
        """Where its output goes."""
        return self.table_output if self.table_output is not None else FileOutput(self.output)


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
        input_path: a file, a directory, or a list of them. A directory that holds data files is one partition; one
            that holds only directories stands for the partitions below it.
        output_path: a ``.parquet`` file for a single partition, else the directory below which outputs lie: hive
            segments (``ds=2026-01-31``) and the file's name are kept. Or a list, one path for each input path.
        resolver: opens paths and URLs.
        where: only partitions with these values of hive keys: :class:`airflow_mullama.storage.hive_filter.HiveFilter`.
        leave_out_missing: an input that is not there is left out, with a line in the log; there may be no partition.

    Raises:
        InputNotFoundError: nothing there, no data file in it, or no partition that ``where`` wants.
        InputUnreadableError: a hive directory holds files and none is data, or a partition has files of several
            formats.
        ConfigurationError: two partitions would have the same output, an output would overwrite an input, the two
            paths lie in each other, or ``where`` names something that is not a hive key.
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
        _refuse_other_format(output)
        places.append((source, output))
    tables = any(table_format(location.address) is not None for place in places for location in place)
    at_once = 1 if tables or all(source.is_local for source, _ in places) else LISTED_AT_ONCE
    all_found = map_ahead(lambda place: _found_at(*place, wanted, seen), places, at_once, "mullama-list")
    for (_, output), found in zip(places, all_found, strict=True):
        if isinstance(found, InputNotFoundError):
            if not leave_out_missing:
                raise found
            log.info("left out: %s", found)
            continue
        for partition in found:
            if table_format(output.address) != "iceberg":  # whose catalog says where it lies
                refuse_output_through_link(output, partition.output)
        partitions.extend(found)
    if wanted is not None and not partitions:
        _explain_no_match(inputs, wanted, seen, leave_out_missing)
    _refuse_collisions(partitions)
    for source, output in places:
        _refuse_input_below(source, output)
    return partitions


def _found_at(
    source: Location, output: Location, where: HiveFilter | None, seen: KeysSeen
) -> list[Partition] | InputNotFoundError:
    try:
        found = _partitions_of(source, output, where, seen)
        return found if table_format(output.address) is None else _into_table(found, source, output)
    except InputNotFoundError as error:
        return error


def _refuse_other_format(output: Location) -> None:
    format_ = data_format(output.name)
    if format_ not in (None, DataFormat.PARQUET):
        raise ConfigurationError(
            f"output_path {output.url!r} has the name of a {format_.value} file, and outputs are Parquet; give a name "
            "that ends in .parquet, or a directory."
        )


def _as_list(value: object, name: str) -> list[str]:
    if isinstance(value, (str, os.PathLike)):
        return [os.fspath(value)]
    if isinstance(value, Iterable):
        paths = list(value)
        if paths and all(isinstance(path, (str, os.PathLike)) for path in paths):
            return [os.fspath(path) for path in paths]
    raise ConfigurationError(f"{name} is {value!r}; it must be a path or URL, or a list of at least one.")


def _partitions_of_table(
    source: Location, output: Location, where: HiveFilter | None, seen: KeysSeen
) -> list[Partition]:
    found = list(table_partitions(source, where, seen))
    if is_parquet(output.name) and len(found) > 1:
        raise ConfigurationError(
            f"output_path {output.url!r} is one file and {source.url!r} has {len(found)} partitions; give a directory."
        )
    if found and table_format(output.address) is None:
        _refuse_output_in_table(found[0].table, output)
    return [
        Partition(one.location, (), _output_of_table_partition(one, output), one.size, table=one.source)
        for one in found
    ]


def _refuse_output_in_table(table: Location, output: Location) -> None:
    same_store = scheme_of(table.address) in ("delta", f"delta+{scheme_of(output.address)}")
    if same_store and f"{output.path}/".startswith(f"{table.path}/"):
        raise ConfigurationError(
            f"output_path {output.url!r} lies in the directory of the table {table.url!r}, which removes what is not "
            "its own; give an output_path outside of it."
        )


def _into_table(partitions: Sequence[Partition], source: Location, output: Location) -> list[Partition]:
    """The same partitions, as partitions of a table."""
    root = split_address(output)[0]
    if table_format(source.address) is not None and place_of(split_address(source)[0].url) == place_of(root.url):
        raise ConfigurationError(
            f"input_path and output_path are the same table {root.url!r}, whose rows would be replaced while they are "
            "read; give another one."
        )
    writer = open_table_writer(root)
    found = []
    for partition in partitions:
        target = partition_output(writer, output, _values_of(partition))
        found.append(replace(partition, output=target.location, table_output=target))
    return found


def _values_of(partition: Partition) -> HiveValues:
    if partition.table is not None:
        return split_address(partition.input)[1]
    folder = partition.input.parent if partition.files == (partition.input,) else partition.input
    return hive_values("/".join(hive_run(folder.path.split("/"))))


def _output_of_table_partition(found: FoundPartition, output: Location) -> Location:
    name = DIRECTORY_OUTPUT_NAME if found.values else as_parquet_name(found.table.name)
    return _output_of(name, key_segments(found.values), output)


def _partitions_of(source: Location, output: Location, where: HiveFilter | None, seen: KeysSeen) -> list[Partition]:
    if table_format(source.address) is not None:
        return _partitions_of_table(source, output, where, seen)
    info = source.info()
    if info.type != pafs.FileType.NotFound:
        refuse_part_of_table(source if info.type == pafs.FileType.Directory else source.parent, seen.no_tables)
    if info.type == pafs.FileType.File:
        seen.reached_files = True
        seen.add(source.parent.path)
        if where is not None and not where.matches(hive_values(source.parent.path)):
            return []
        return [Partition(source, (source,), _output_of_file(source, output), info.size or 0)]
    if info.type != pafs.FileType.Directory:
        raise _not_there(source)
    _refuse_output_below(source, output)
    seen.add(source.path)
    leaves = list_leaves(source, where, seen)
    if not leaves and (where is None or not (seen.values or seen.reached_files)):
        raise InputNotFoundError(
            f"The directory {source.url!r} holds no data file (names ending in {', '.join(DATA_SUFFIXES)}, not "
            "beginning with '_' or '.')."
        )
    partitions = []
    for leaf in leaves:
        place = source.join(leaf.relative) if leaf.relative else source
        format_of(leaf.files)  # there is only one
        if leaf.relative:
            segments = [*hive_run(source.path.split("/")), *leaf.relative.split("/")]
            target = _output_of(DIRECTORY_OUTPUT_NAME, segments, output)
        else:
            target = _output_of_directory(source, output)
        if leaf.relative and is_parquet(output.name):
            raise ConfigurationError(
                f"output_path {output.url!r} is one file and {source.url!r} holds {len(leaves)} partition(s) in "
                "subdirectories; give a directory."
            )
        partitions.append(Partition(place, leaf.files, target, leaf.size))
    return partitions


def _not_there(source: Location) -> MullamaError:
    if source.is_local and os.path.islink(source.path) and not os.path.exists(source.path):
        return InputNotFoundError(
            f"{source.url!r} is a link to {os.readlink(source.path)!r}, which is not there: mount or restore it, or "
            "correct input_path."
        )
    if source.is_local and os.path.exists(source.path):
        kind = kind_of_file(os.stat(source.path).st_mode)
        return InputUnreadableError(f"{source.url!r} is neither a file nor a directory but {kind}; correct input_path.")
    return InputNotFoundError(f"There is no file or directory at {source.url!r}: check input_path.")


def _refuse_output_below(source: Location, output: Location) -> None:
    if output.real_path == source.real_path:
        raise ConfigurationError(
            f"input_path and output_path are both {source.url!r}, so the next run would take the outputs for input; "
            "give an output_path outside of it."
        )
    if any(_is_data_below(*paths) for paths in ((output.path, source.path), (output.real_path, source.real_path))):
        raise ConfigurationError(
            f"output_path {output.url!r} lies below input_path {source.url!r}, so the next run would take the outputs "
            "for input; give an output_path outside of it."
        )


def _explain_no_match(inputs: Sequence[str], where: HiveFilter, seen: KeysSeen, leave_out_missing: bool) -> None:
    """Nothing matches: because a key is not one, or because there is no such partition."""
    place = repr(shown_address(inputs[0])) + (f" and {len(inputs) - 1} more" if len(inputs) > 1 else "")
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


def output_path_of(input_path: str, output_path: str) -> str:
    """Where the output of a file, or of a directory that holds data files directly, goes; nothing is looked up."""
    source, output = (Location(pafs.LocalFileSystem(), place_of(path).path, path) for path in (input_path, output_path))
    return (_output_of_directory if data_format(source.name) is None else _output_of_file)(source, output).url


def _output_of_file(source: Location, output: Location) -> Location:
    # What has no ending, such as 000000_0, keeps its name.
    output_name = source.name if data_format(source.name) is None else as_parquet_name(source.name)
    return _output_of(output_name, hive_run(source.parent.path.split("/")), output)


def _output_of_directory(source: Location, output: Location) -> Location:
    # Spark calls directories tickets.parquet, and tickets.csv.
    name = DIRECTORY_OUTPUT_NAME if is_hive_segment(source.name) else as_parquet_name(source.name)
    return _output_of(name, hive_run(source.path.split("/")), output)


def _output_of(name: str, segments: Sequence[str], output: Location) -> Location:
    if is_parquet(output.name):
        return output
    present = hive_run(output.path.split("/"))
    missing = [segment for segment in segments if segment not in present]
    return output.join(*missing, name)


def _refuse_collisions(partitions: Sequence[Partition]) -> None:
    inputs = {file.real_path for partition in partitions for file in partition.files}
    directories = {partition.input.real_path for partition in partitions if partition.files != (partition.input,)}
    seen: dict[str, Partition] = {}
    for partition in partitions:
        path = partition.output.real_path
        if path in inputs:
            raise ConfigurationError(
                f"The output {partition.output.url!r} would overwrite an input; give another output_path."
            )
        in_input = partition.output.parent.real_path in directories
        if in_input and partition.table is None and partition.table_output is None:
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
    if table_format(source.address) is not None:
        return  # no reader of a directory takes a table's folders for the rows they are
    pairs = ((source.path, output.path), (source.real_path, output.real_path))
    if not is_parquet(output.name) and any(_is_data_below(*paths) for paths in pairs):
        raise ConfigurationError(
            f"input_path {source.url!r} lies below output_path {output.url!r}, so whoever reads the outputs would read "
            "the inputs with them; give an output_path beside it."
        )


def _is_data_below(path: str, directory: str) -> bool:
    """Whether who reads a directory reads a path too."""
    below = path.removeprefix(f"{directory}/")
    return below != path and all(map(is_data, below.split("/")))
