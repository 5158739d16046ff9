"""Logical types that Arrow reads as plain bytes and numbers, carried over from a footer to a footer.

Arrow has no type for Parquet's INTERVAL, ENUM, BSON, GEOMETRY, GEOGRAPHY and VARIANT, and takes a time of day in UTC
for a local one. It copies their values and leaves out what they are. That stands in a few bytes of the footer's schema,
which are put back here as they were, so that those of a later version of the format are kept too.

A footer is the Thrift struct ``FileMetaData`` of ``parquet.thrift`` (https://github.com/apache/parquet-format). Only
its schema is looked into, all else is copied.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow.parquet as pq

from airflow_mullama.storage.parquet.thrift_compact import I32, LIST, STRUCT, CompactReader, list_header

MAGIC = b"PAR1"
TAIL_BYTES = 8  # the footer's length and the magic bytes

# Fields of FileMetaData and SchemaElement.
SCHEMA = 2
TYPE, TYPE_LENGTH, NAME, NUM_CHILDREN, CONVERTED_TYPE, LOGICAL_TYPE = 1, 2, 4, 5, 6, 10
# Members of the union LogicalType that Arrow writes of its own accord: STRING, MAP, LIST, DECIMAL, DATE, TIMESTAMP,
# INTEGER, UNKNOWN (null), FLOAT16; and TIME in local time.
LOGICAL_TIME = 7
LOGICAL_NAMES = {
    4: "ENUM",
    LOGICAL_TIME: "TIME (UTC)",
    12: "JSON",
    13: "BSON",
    14: "UUID",
    16: "VARIANT",
    17: "GEOMETRY",
    18: "GEOGRAPHY",
}
LOGICAL_OF_ARROW = frozenset({1, 2, 3, 5, 6, 8, 10, 11, 15})
# Those whose smallest and largest value by bytes mean something: ENUM, TIME, JSON, BSON, UUID.
LOGICAL_SORTED = frozenset({4, LOGICAL_TIME, 12, 13, 14})
# Those of the older enum ConvertedType that are kept.
CONVERTED_NAMES = {4: "ENUM", 7: "TIME_MILLIS", 8: "TIME_MICROS", 19: "JSON", 20: "BSON", 21: "INTERVAL"}
CONVERTED_INTERVAL = 21
TRUE_FIELD_ONE = 0x11  # the first field of a struct, a boolean, true

# How Arrow names what needs a closer look; a column of such a name only costs the look.
_TELLTALE = re.compile(
    r"\((Interval|Enum|BSON|JSON|UUID|Variant|Geometry|Geography|Undefined|Unknown)|Time\(isAdjustedToUTC=true"
)


@dataclass(frozen=True)
class Place:
    """An element of a file's schema, whatever the groups around it are called: writers name those of lists differently.

    Args:
        column: the top-level column's name.
        first: the first of the column's leaves that it stands for.
        last: the last of them.
        is_leaf: whether it is a leaf itself; else the innermost group around just these.
        number: which of the columns of this name it is.
    """

    column: str
    first: int
    last: int
    is_leaf: bool
    number: int = 0


@dataclass(frozen=True)
class Annotation:
    """What an element says of its values, as it stands in the footer.

    Args:
        physical: type and length of a leaf; empty for a group.
        converted: the older way to say it.
        logical: the newer one.
    """

    physical: tuple[bytes, bytes]
    converted: bytes
    logical: bytes

    @property
    def name(self) -> str:
        """As the format's documentation calls it."""
        if self.logical:
            member = _union_member(self.logical)
            return LOGICAL_NAMES.get(member, f"number {member}")
        return CONVERTED_NAMES.get(_number(self.converted), "unknown")

    @property
    def is_time(self) -> bool:
        """Whether it is a time of day in UTC, and not one of a place."""
        return bool(self.logical) and _union_member(self.logical) == LOGICAL_TIME

    @property
    def is_sorted(self) -> bool:
        """Whether the smallest and the largest value by bytes are what readers take them for."""
        if self.logical:
            return _union_member(self.logical) in LOGICAL_SORTED
        return _number(self.converted) != CONVERTED_INTERVAL


Annotations = Mapping[Place, Annotation]


@dataclass(frozen=True)
class SchemaElement:
    """One element of a footer's schema: by field id, the Thrift type and the bytes of its value."""

    fields: Mapping[int, tuple[int, bytes]]

    def value(self, field: int) -> bytes:
        """The bytes of a field; empty without it."""
        return self.fields.get(field, (0, b""))[1]

    @property
    def children(self) -> int:
        """How many elements below it follow; 0 for a leaf."""
        return _number(self.value(NUM_CHILDREN)) if self.value(NUM_CHILDREN) else 0

    @property
    def name(self) -> str:
        """The column's or group's name."""
        return CompactReader(self.value(NAME)).binary().decode("utf-8", "surrogateescape")

    def to_bytes(self) -> bytes:
        """As it stands in the list."""
        written, last = bytearray(), 0
        for field, (kind, value) in sorted(self.fields.items()):
            written.append((field - last) << 4 | kind)
            written += value
            last = field
        return bytes(written) + b"\0"


def may_need_annotations(schema: pq.ParquetSchema) -> bool:
    """Whether a file may have a logical type that Arrow does not keep; a cheap look."""
    return _TELLTALE.search(str(schema)) is not None


def read_annotations(footer: bytes) -> dict[Place, Annotation]:
    """The annotations of a footer that Arrow does not keep.

    Raises:
        ValueError: it is no footer.
    """
    elements, _ = _schema(footer)
    found = ((place, _annotation(elements[index])) for place, index in _places(elements).items())
    return {place: annotation for place, annotation in found if _is_kept(annotation)}


def annotated(footer: bytes, wanted: Annotations) -> tuple[bytes, set[Place]]:
    """A footer with annotations put into its schema.

    Returns:
        The footer, and the places that have no element of the same physical type, which were left as they are.

    Raises:
        ValueError: it is no footer.
    """
    if not wanted:
        return footer, set()
    elements, (start, end) = _schema(footer)
    places = _places(elements)
    missing: set[Place] = set()
    for place, annotation in wanted.items():
        index = places.get(place)
        if index is None or _annotation(elements[index]).physical != annotation.physical:
            missing.add(place)
            continue
        fields = dict(elements[index].fields)
        for field, kind, value in (
            (CONVERTED_TYPE, I32, annotation.converted),
            (LOGICAL_TYPE, STRUCT, annotation.logical),
        ):
            fields.pop(field, None)
            if value:
                fields[field] = (kind, value)
        elements[index] = SchemaElement(fields)
    listed = list_header(len(elements)) + b"".join(element.to_bytes() for element in elements)
    return footer[:start] + listed + footer[end:], missing


def annotate_file(file: BinaryIO, wanted: Annotations) -> set[Place]:
    """Put annotations into the footer of a finished Parquet file.

    Args:
        file: on a handle that may be read and written; it is left at its end.
        wanted: what :func:`read_annotations` found in the input.

    Returns:
        The places that have no element of the same physical type.

    Raises:
        ValueError: it is no Parquet file.
    """
    file.flush()
    handle = file.fileno()
    end = os.fstat(handle).st_size
    tail = os.pread(handle, TAIL_BYTES, max(0, end - TAIL_BYTES))
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or length > end - TAIL_BYTES:
        raise ValueError("no footer of a Parquet file")
    start = end - TAIL_BYTES - length
    footer, missing = annotated(os.pread(handle, length, start), wanted)
    file.seek(start)
    file.truncate()
    file.write(footer + len(footer).to_bytes(4, "little") + MAGIC)
    file.flush()
    return missing


def footer_of(file: bytes) -> bytes:
    """The footer of a Parquet file that is in memory."""
    end = len(file) - TAIL_BYTES
    return file[end - int.from_bytes(file[end : end + 4], "little") : end]


def unsorted_leaves(footer: bytes, annotations: Annotations) -> set[int]:
    """The numbers of the leaves whose smallest and largest value by bytes mean nothing."""
    unsorted = [place for place, annotation in annotations.items() if not annotation.is_sorted]
    if not unsorted:
        return set()
    elements, _ = _schema(footer)
    leaves = [place for place in _places(elements) if place.is_leaf]  # in their order
    return {
        number
        for number, leaf in enumerate(leaves)
        for place in unsorted
        if (place.column, place.number) == (leaf.column, leaf.number) and place.first <= leaf.first <= place.last
    }


def _annotation(element: SchemaElement) -> Annotation:
    physical = (element.value(TYPE), element.value(TYPE_LENGTH))
    return Annotation(physical, element.value(CONVERTED_TYPE), element.value(LOGICAL_TYPE))


def _is_kept(annotation: Annotation) -> bool:
    if annotation.logical:
        member = _union_member(annotation.logical)
        if member == LOGICAL_TIME:
            return len(annotation.logical) > 1 and annotation.logical[1] == TRUE_FIELD_ONE
        return member not in LOGICAL_OF_ARROW
    return bool(annotation.converted) and _number(annotation.converted) in CONVERTED_NAMES


def _union_member(union: bytes) -> int:
    """Which member of a union is set."""
    return union[0] >> 4 if union[0] >> 4 else _number(union[1:])


def _number(integer: bytes) -> int:
    return CompactReader(integer).integer()


def _places(elements: Sequence[SchemaElement]) -> dict[Place, int]:
    """The place of each element but the root, and its index."""
    places: dict[Place, int] = {}
    names: Counter[str] = Counter()

    def walk(index: int, column: tuple[str, int], leaf: int) -> tuple[int, int]:
        """The index behind an element and all below it, and the number of leaves until there."""
        element = elements[index]
        name, number = column
        end, leaves = index + 1, leaf
        for _ in range(element.children):
            end, leaves = walk(end, column, leaves)
        if not element.children:
            places[Place(name, leaf, leaf, True, number)] = index
            return end, leaf + 1
        # The innermost group around these leaves has been met already.
        places.setdefault(Place(name, leaf, leaves - 1, False, number), index)
        return end, leaves

    index = 1
    try:
        for _ in range(elements[0].children):
            name = elements[index].name
            index, _ = walk(index, (name, names[name]), 0)
            names[name] += 1
    except (IndexError, RecursionError):
        raise ValueError("the schema of the footer ends too early") from None
    return places


def _schema(footer: bytes) -> tuple[list[SchemaElement], tuple[int, int]]:
    """The elements of a footer's schema, and from where to where their list goes."""
    reader = CompactReader(footer)
    try:
        for field, kind in reader.fields():
            if field != SCHEMA or kind != LIST:
                reader.skip(kind)
                continue
            start = reader.position
            elements = [SchemaElement(dict(reader.struct())) for _ in range(reader.list_length(STRUCT))]
            if elements:
                return elements, (start, reader.position)
    except (IndexError, ValueError) as error:
        raise ValueError(f"no schema in the footer: {error}") from None
    raise ValueError("no schema in the footer")
