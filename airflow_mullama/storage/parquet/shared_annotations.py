"""Logical types that Arrow does not know, of a partition of several files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from pyarrow import types

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.parquet.annotations import Annotation, Annotations, Place
from airflow_mullama.storage.parquet.unified_schema import ColumnKey, column_keys

log = logging.getLogger(__name__)

LeafPath = tuple[str, ...]
"""Names of structs' fields, and what stands for the parts of lists and maps, down to a leaf."""


@dataclass(frozen=True)
class AnnotatedFile:
    """One file of a partition.

    Args:
        name: for messages.
        schema: its own, as Arrow has it.
        annotations: what stands in its footer.
    """

    name: str
    schema: pa.Schema
    annotations: Annotations


@dataclass(frozen=True)
class _Found:
    """What one file says of a place of the partition's schema."""

    file: AnnotatedFile
    kind: pa.DataType
    annotation: Annotation | None

    @property
    def name(self) -> str:
        return self.annotation.name if self.annotation else str(self.kind)


def shared_annotations(files: Sequence[AnnotatedFile], schema: pa.Schema) -> dict[Place, Annotation]:
    """The annotations of a partition of several files: of each column those that all files with this column have.

    Args:
        files: in the order in which their rows count.
        schema: what they are all read as; places are of its columns.

    Raises:
        InputUnreadableError: two files contradict each other.
    """
    if not any(file.annotations for file in files):
        return {}
    unified = _leaves_of_columns(schema)
    looked_at = [(file, _leaves_of_columns(file.schema)) for file in files]
    moved = [_moved(file.annotations, leaves, unified) for file, leaves in looked_at]
    shared: dict[Place, Annotation] = {}
    for place in dict.fromkeys(place for of_file in moved for place in of_file):
        path = list(unified[place.column, place.number])[place.first]
        kind = unified[place.column, place.number][path]
        found = []
        for (file, leaves), of_file in zip(looked_at, moved, strict=True):
            own = leaves.get((place.column, place.number), {}).get(path)
            if own is not None and not types.is_null(own):
                found.append(_Found(file, own, of_file.get(place)))
        annotation = _of_all(place, kind, found)
        if annotation is not None:
            shared[place] = annotation
    return shared


def _of_all(place: Place, kind: pa.DataType, found: Sequence[_Found]) -> Annotation | None:
    """The annotation that holds for all values; of those of one name that of the type they are promoted to."""
    names = {one.name for one in found}
    fitting = {one.annotation for one in found if one.kind == kind}
    if len(names) == 1 and len(fitting) == 1:
        return fitting.pop()
    first, other = found[0], next(one for one in found if one.annotation != found[0].annotation)
    if any(one.kind != kind for one in found) or any(one.annotation and one.annotation.is_time for one in found):
        raise InputUnreadableError(
            f"The files {first.file.name!r} and {other.file.name!r} of one partition contradict each other: column "
            f"{place.column!r} is {first.name} in one and {other.name} in the other; write them with one type, or "
            "process them as partitions of their own."
        )
    log.warning(
        "the files of a partition do not agree that %r is %s: it is written without",
        place.column,
        " or ".join(sorted({one.annotation.name for one in found if one.annotation})),
    )
    return None


def _moved(
    annotations: Annotations,
    own: Mapping[ColumnKey, Mapping[LeafPath, pa.DataType]],
    unified: Mapping[ColumnKey, Mapping[LeafPath, pa.DataType]],
) -> dict[Place, Annotation]:
    """Annotations of a file by their places in the partition's schema, where structs may have other fields."""
    moved = {}
    for place, annotation in annotations.items():
        key = (place.column, place.number)
        paths, wanted = list(own[key]), {path: number for number, path in enumerate(unified[key])}
        moved[replace(place, first=wanted[paths[place.first]], last=wanted[paths[place.last]])] = annotation
    return moved


def _leaves_of_columns(schema: pa.Schema) -> dict[ColumnKey, dict[LeafPath, pa.DataType]]:
    keys = column_keys(schema.names)
    return {key: dict(_leaves(field.type, ())) for key, field in zip(keys, schema, strict=True)}


def _leaves(kind: pa.DataType, above: LeafPath) -> Iterator[tuple[LeafPath, pa.DataType]]:
    """The leaves of a column in Parquet, in their order."""
    if isinstance(kind, pa.BaseExtensionType):
        yield from _leaves(kind.storage_type, above)
    elif types.is_struct(kind):
        for place in range(kind.num_fields):
            name = kind.field(place).name
            # One that repeats is told apart by its number; such structs are the same in all files.
            number = sum(kind.field(before).name == name for before in range(place))
            yield from _leaves(kind.field(place).type, (*above, name, *["again"] * number))
    elif types.is_map(kind):
        yield from _leaves(kind.key_type, (*above, "key"))
        yield from _leaves(kind.item_type, (*above, "value"))
    elif types.is_dictionary(kind) or not hasattr(kind, "value_type"):
        yield above, kind
    else:
        yield from _leaves(kind.value_type, (*above, "[]"))
