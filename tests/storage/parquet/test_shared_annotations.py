from __future__ import annotations

import logging
import re
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.parquet.annotations import Annotation, Place
from airflow_mullama.storage.parquet.shared_annotations import AnnotatedFile, shared_annotations

ENUM = Annotation((b"\x0c", b""), b"\x08", b"\x4c\x00\x00")  # of a BYTE_ARRAY
INTERVAL = Annotation((b"\x0e", b"\x18"), b"\x2a", b"")  # of a FIXED_LEN_BYTE_ARRAY(12)
# TIME in UTC: of an INT32 in milliseconds, of an INT64 in microseconds.
MILLIS = Annotation((b"\x02", b""), b"\x0e", b"\x7c\x11\x1c\x1c\x00\x00\x00")
MICROS = Annotation((b"\x04", b""), b"\x10", b"\x7c\x11\x1c\x2c\x00\x00\x00")


def leaf(column: str, place: int = 0) -> Place:
    return Place(column, place, place, True)


def file(annotations: dict[Place, Annotation], **columns: pa.DataType) -> AnnotatedFile:
    return AnnotatedFile(f"{len(columns)}.parquet", pa.schema(columns), annotations)


def test_a_column_that_the_files_describe_in_two_ways_is_left_plain(caplog: Any) -> None:
    kind, span = pa.binary(), pa.binary(12)
    schema = pa.schema({"kind": kind, "span": span})
    first = file({leaf("kind"): ENUM, leaf("span"): INTERVAL}, kind=kind, span=span)
    with caplog.at_level(logging.WARNING):
        second = file({leaf("span"): INTERVAL}, span=span)
        assert shared_annotations([first, second], schema) == {leaf("kind"): ENUM, leaf("span"): INTERVAL}
        assert shared_annotations([first, file({}, kind=pa.null())], schema) == first.annotations
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        assert shared_annotations([first, file({}, kind=kind)], schema) == {leaf("span"): INTERVAL}
    assert "do not agree that 'kind' is ENUM" in caplog.text


def test_the_places_are_those_of_the_promoted_column() -> None:
    one = pa.struct([("a", pa.int8()), ("span", pa.binary(12))])
    other = pa.struct([("span", pa.binary(12)), ("b", pa.list_(pa.binary()))])
    unified = pa.struct([("a", pa.int8()), ("span", pa.binary(12)), ("b", pa.list_(pa.binary()))])
    files = [
        file({leaf("x", 1): INTERVAL}, x=one),
        file({leaf("x", 0): INTERVAL, leaf("x", 1): ENUM}, x=other),
    ]
    assert shared_annotations(files, pa.schema({"x": unified})) == {leaf("x", 1): INTERVAL, leaf("x", 2): ENUM}


def test_of_two_units_the_finer_one_is_said() -> None:
    files = [file({leaf("at"): MILLIS}, at=pa.time32("ms")), file({leaf("at"): MICROS}, at=pa.time64("us"))]
    assert shared_annotations(files, pa.schema({"at": pa.time64("us")})) == {leaf("at"): MICROS}


@pytest.mark.parametrize(
    ("one", "other", "unified", "sentence"),
    [
        ((MICROS, pa.time64("us")), (None, pa.time64("us")), pa.time64("us"), "is TIME (UTC) in one and time64[us]"),
        ((INTERVAL, pa.binary(12)), (None, pa.binary(3)), pa.binary(), "is INTERVAL in one and fixed_size_binary[3]"),
    ],
)
def test_two_meanings_are_a_contradiction(one: Any, other: Any, unified: pa.DataType, sentence: str) -> None:
    files = [file({leaf("a"): annotation} if annotation else {}, a=kind) for annotation, kind in (one, other)]
    with pytest.raises(InputUnreadableError, match=re.escape(f"contradict each other: column 'a' {sentence}")):
        shared_annotations(files, pa.schema({"a": unified}))
