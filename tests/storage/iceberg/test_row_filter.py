"""What is asked of Iceberg is never less than what is wanted: else partitions would be left out without a word."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.storage.hive_filter import HiveFilter

pytest.importorskip("pyiceberg")

from pyiceberg.expressions import AlwaysTrue
from pyiceberg.expressions.visitors import expression_evaluator
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import BucketTransform, DayTransform, IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import DateType, DoubleType, IntegerType, NestedField, StringType, TimestampType

from airflow_mullama.storage.iceberg.row_filter import row_filter

EPOCH = datetime.date(1970, 1, 1)
TEXTS = (
    *("", "eu", "EU", "Ωmega", "😀", "3", "03", "3.0", "+3", "-3", "10", "9", "20260131", "2026-01-31x", "2026"),
    *("2026-01-30", "2026-01-31", "2026-02-01", "2026-02-30", "2026-01-31T05", "2026-01-31 23:59:59.5"),
    *("2026-01-31T00:30:00+14:00", "2026-01-31T23:30:00-12:00", "2026-02-01T00:30+23:59", "0001-01-01", "9999-12-31"),
)
DATES = ("0001-01-01", "1969-12-31", "2026-01-30", "2026-01-31", "2026-02-01", "9999-12-31")
NUMBERS = ("-3", "0", "3", "9", "10", "2026", "2147483647")


def asked(kind: Any, where: HiveFilter | None, values: dict[str, str | None]) -> Callable[[str | None], bool]:
    """Whether Iceberg would say of a value that rows with it may be wanted."""
    schema = Schema(NestedField(1, "column", kind))
    spec = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "key"))
    evaluate = expression_evaluator(schema, row_filter(schema, spec, where, values) or AlwaysTrue(), True)

    def may_be_wanted(stored: str | None) -> bool:
        value: Any = stored
        if stored is not None and isinstance(kind, DateType):
            value = (datetime.date.fromisoformat(stored) - EPOCH).days
        elif stored is not None and isinstance(kind, IntegerType):
            value = int(stored)
        return bool(evaluate(Record(value)))

    return may_be_wanted


@pytest.mark.parametrize(("kind", "stored"), [(StringType(), TEXTS), (DateType(), DATES), (IntegerType(), NUMBERS)])
def test_no_partition_that_is_wanted_is_ruled_out(kind: Any, stored: tuple[str, ...]) -> None:
    ends = (*TEXTS, *NUMBERS)
    conditions: list[Any] = [None, *ends, ["eu", None], ["2026-01-31", "2026-03-01T00:00+14:00"], [3, 9, None]]
    conditions += [{side: end} for side in ("from", "to") for end in ends]
    conditions += [{"from": low, "to": high} for low, high in itertools.combinations(sorted(ends), 2)]
    tried = 0
    for condition in conditions:
        try:
            where = HiveFilter.parse({"key": condition})
        except ConfigurationError:  # a range that ends before it begins
            continue
        may_be_wanted = asked(kind, where, {})
        for value in (None, *stored):
            if where.matches({"key": value}):
                tried += 1
                assert may_be_wanted(value), (condition, value)
    assert tried > 100
    for value in (None, *stored):
        assert asked(kind, None, {"key": value})(value)


@pytest.mark.parametrize(
    ("kind", "condition", "ruled_out"),
    [
        (StringType(), "eu", "us"),
        (StringType(), ["eu", "us"], None),
        (StringType(), {"from": "2026-01-31"}, "2026-01-28"),
        (StringType(), ["2026-01-31", "2026-02-01"], "2026-02-04"),
        (DateType(), "2026-01-31", "2026-02-01"),
        (DateType(), {"from": "2026-01-31", "to": "2026-02-01"}, "2026-01-30"),
        (IntegerType(), 3, "4"),
        (IntegerType(), {"to": 9}, "10"),
        (StringType(), None, "eu"),
    ],
)
def test_others_are(kind: Any, condition: Any, ruled_out: str | None) -> None:
    assert not asked(kind, HiveFilter.parse({"key": condition}), {})(ruled_out)


def test_a_partition_of_an_address_is_asked_for_as_it_is() -> None:
    assert not asked(StringType(), None, {"key": "3"})("03")
    assert not asked(DateType(), None, {"key": "2026-01-31"})("2026-01-30")
    assert not asked(IntegerType(), None, {"key": "3"})("4")
    assert not asked(IntegerType(), None, {"key": None})("4")


def test_of_what_iceberg_compares_otherwise_nothing_is_asked() -> None:
    where, values = HiveFilter.parse({"at_day": "2026-01-31", "nowhere": 1}), {"price": "1.5", "id_bucket": "3"}
    schema = Schema(
        NestedField(1, "id", IntegerType()),
        NestedField(2, "at", TimestampType()),
        NestedField(3, "price", DoubleType()),
    )
    spec = PartitionSpec(
        PartitionField(1, 1000, BucketTransform(4), "id_bucket"),
        PartitionField(2, 1001, DayTransform(), "at_day"),
        PartitionField(3, 1002, IdentityTransform(), "price"),
    )
    assert row_filter(schema, spec, where, values) is None
