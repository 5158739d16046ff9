"""One schema for the files of a partition, whose writers were not all of one day.

The order is that of the first file, with what later ones add behind it. A column's type is the one that holds the
values of every file without loss (:mod:`airflow_mullama.storage.parquet.common_types`); where a file lacks a column, it
is null.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.parquet.common_types import (
    NoCommonTypeError,
    common_field,
    common_type,
    without_used_id,
)

SchemaDrift = Literal["promote", "refuse"]
SCHEMA_DRIFT: tuple[SchemaDrift, ...] = ("promote", "refuse")

ColumnKey = tuple[str, int]
"""A column's name, and which of the columns of this name it is."""

MOST_NAMED = 10


@dataclass(frozen=True)
class UnifiedSchema:
    """What the files of a partition are read as.

    Args:
        schema: without notes.
        differences: what was made equal, for people; empty where all files have this schema.
    """

    schema: pa.Schema
    differences: tuple[str, ...] = ()


@dataclass
class _Kind:
    """Files that have one schema."""

    schema: pa.Schema
    first: Location
    files: int = 1


def column_keys(names: Iterable[str]) -> list[ColumnKey]:
    """A key for each column, in order."""
    seen: Counter[str] = Counter()
    keys = []
    for name in names:
        keys.append((name, seen[name]))
        seen[name] += 1
    return keys


def unify(files: Sequence[tuple[Location, pa.Schema]], schema_drift: SchemaDrift = "promote") -> UnifiedSchema:
    """Find the schema that all files can be read as.

    Args:
        files: at least one, in the order in which their rows count.
        schema_drift: what to do about schemas that differ.

    Raises:
        InputUnreadableError: they differ, and contradict each other or are not to differ.
    """
    kinds: list[_Kind] = []
    for location, schema in files:
        same = next((kind for kind in kinds if kind.schema is schema or kind.schema.equals(schema)), None)
        if same is None:
            kinds.append(_Kind(schema, location))
        else:
            same.files += 1
    first, *others = kinds
    if not others:
        return UnifiedSchema(first.schema.remove_metadata())
    if schema_drift == "refuse":
        raise InputUnreadableError(_difference(first, others[0]))
    fields = dict(zip(column_keys(first.schema.names), first.schema, strict=True))
    for place, kind in enumerate(others, 1):
        _add(fields, kind, kinds[:place])
    unified = pa.schema(list(fields.values()))
    return UnifiedSchema(unified, shortened(_differences(fields, kinds)))


def shortened(differences: Sequence[str]) -> tuple[str, ...]:
    """The first of them, and how many there are besides."""
    more = len(differences) - MOST_NAMED
    return (*differences[:MOST_NAMED], f"and {more} more") if more > 0 else tuple(differences)


def _add(fields: dict[ColumnKey, pa.Field], kind: _Kind, before: Sequence[_Kind]) -> None:
    """Widen the schema so far to one that also holds what these files have."""
    theirs = dict(zip(column_keys(kind.schema.names), kind.schema, strict=True))
    for name, number in fields.keys() ^ theirs.keys():
        if number or (name, 1) in fields or (name, 1) in theirs:
            raise InputUnreadableError(
                f"The files {before[0].first.name!r} and {kind.first.name!r} of one partition do not have column "
                f"{name!r} equally often, so that which is which is not known; give each column its own name."
            )
    for key, field in fields.items():
        if key not in theirs:
            fields[key] = field.with_nullable(True)
    for key, field in theirs.items():
        if key not in fields:
            fields[key] = without_used_id(field.with_nullable(True), list(fields.values()))
            continue
        try:
            fields[key] = common_field(fields[key], field)
        except NoCommonTypeError as error:
            raise InputUnreadableError(_contradiction(key, error.path, fields[key], kind, before)) from None


def _contradiction(key: ColumnKey, path: Sequence[str], unified: pa.Field, kind: _Kind, before: Sequence[_Kind]) -> str:
    """Which of the files before it contradicts another."""
    theirs = _type_of(kind, key)
    assert theirs is not None
    first, ours = before[0].first.name, unified.type
    for earlier in before:
        if (type_ := _type_of(earlier, key)) is None:
            continue
        try:
            common_type(type_, theirs)
        except NoCommonTypeError:
            first, ours = earlier.first.name, type_
            break
    inside = f" (at {'.'.join(path)!r})" if len(path) > 1 else ""
    return (
        f"The files {first!r} and {kind.first.name!r} of the partition {kind.first.parent.url!r} contradict each "
        f"other: column {key[0]!r} is {ours} in one and {theirs} in the other{inside}, and no type holds both as they "
        "are; write them with one type, or process them as partitions of their own."
    )


def _type_of(kind: _Kind, key: ColumnKey) -> pa.DataType | None:
    keys = column_keys(kind.schema.names)
    return kind.schema.field(keys.index(key)).type if key in keys else None


def _difference(one: _Kind, other: _Kind) -> str:
    """That schemas are not the same, for who wants them to be."""
    ours, theirs = (
        {key: str(field.type) for key, field in zip(column_keys(kind.schema.names), kind.schema, strict=True)}
        for kind in (one, other)
    )
    differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if differing:
        key = differing[0]
        detail = f"column {key[0]!r} is {ours.get(key, 'absent')} in one and {theirs.get(key, 'absent')} in the other"
    else:
        detail = "their columns have another order or nullability"
    return (
        f"The files {one.first.name!r} and {other.first.name!r} of one partition have different columns ({detail}) and "
        "schema_drift='refuse'; write them with one schema, process them as partitions of their own, or set "
        "schema_drift='promote'."
    )


def _differences(fields: dict[ColumnKey, pa.Field], kinds: Sequence[_Kind]) -> list[str]:
    by_key = [dict(zip(column_keys(kind.schema.names), kind.schema, strict=True)) for kind in kinds]
    total = sum(kind.files for kind in kinds)
    said = []
    for key, field in fields.items():
        there = [columns[key] for columns in by_key if key in columns]
        types = dict.fromkeys(str(one.type) for one in there if one.type != field.type)
        absent = sum(kind.files for kind, columns in zip(kinds, by_key, strict=True) if key not in columns)
        if types:
            said.append(f"{key[0]!r} is read as {field.type}, and some have {' or '.join(types)}")
        elif not absent and len({one.nullable for one in there}) > 1:
            said.append(f"{key[0]!r} may be null")
        if absent:
            said.append(f"{key[0]!r} is null where it is absent, in {absent} of {total} files")
    if not said:
        return [f"the order of columns is that of {kinds[0].first.name!r}"]
    return said
