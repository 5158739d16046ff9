"""What Iceberg can be told of the partitions that are wanted, so that manifests of others are not read.

Values of partitions are compared here as what they look like (:mod:`airflow_mullama.storage.hive_filter`), and by
Iceberg as what their columns are. So this is never narrower than what is wanted, and often wider: what is planned is
filtered again.
"""

from __future__ import annotations

import datetime
from typing import Any

from airflow_mullama.storage.hive import HiveValues
from airflow_mullama.storage.hive_filter import AnyOf, HiveFilter, Range, day_of, kind_of

# From a day in the farthest time zone to the same in the other one, as a text may give any.
ZONES = datetime.timedelta(days=1)


def row_filter(schema: Any, spec: Any, where: HiveFilter | None, values: HiveValues) -> Any:
    """An expression that holds for every row of the partitions that are wanted; ``None`` where nothing can be told.

    Only of columns as they are (identity) that are texts, dates or whole numbers.

    Args:
        schema: of the table, as pyiceberg has it.
        spec: how it is partitioned.
        where: leaves out partitions.
        values: that they have.
    """
    from pyiceberg import expressions
    from pyiceberg.transforms import IdentityTransform
    from pyiceberg.types import DateType, IntegerType, LongType, StringType

    kinds = {StringType(): _Texts, DateType(): _Days, IntegerType(): _Numbers, LongType(): _Numbers}
    columns: dict[str, _Column] = {}
    for field in spec.fields:
        name = schema.find_column_name(field.source_id)
        if isinstance(field.transform, IdentityTransform) and name is not None:
            kind = kinds.get(schema.find_type(field.source_id))
            if kind is not None:
                columns[field.name] = kind(name, expressions)
    found = [columns[key].exactly(value) for key, value in values.items() if key in columns]
    for key, condition in () if where is None else where.conditions:
        if key in columns:
            found.append(columns[key].holds(condition))
    return _all_of(expressions, *found)


def _all_of(expressions: Any, *found: Any) -> Any:
    told = [one for one in found if one is not None]
    if len(told) > 1:
        return expressions.And(*told)
    return told[0] if told else None


class _Column:
    """A column that a table is partitioned by.

    Args:
        name: in the table's schema.
        expressions: pyiceberg's.
    """

    def __init__(self, name: str, expressions: Any) -> None:
        self.name = name
        self.expressions = expressions

    def exactly(self, value: str | None) -> Any:
        """That it has the value that a partition's address has."""
        return self._any_of((value,))

    def holds(self, condition: AnyOf | Range) -> Any:
        """What follows from a condition."""
        if isinstance(condition, AnyOf):
            return self._any_of(condition.values)
        low = None if condition.low is None else self._from(condition.low)
        high = None if condition.high is None else self._to(condition.high)
        return _all_of(self.expressions, low, high)

    def _any_of(self, values: tuple[str | None, ...]) -> Any:
        given = [value for value in values if value is not None]
        literals = [self._literal(value) for value in given]
        if any(literal is None for literal in literals):
            return None
        told = self.expressions.In(self.name, literals) if literals else None
        if len(given) == len(values):
            return told
        is_null = self.expressions.IsNull(self.name)
        return is_null if told is None else self.expressions.Or(told, is_null)

    def _literal(self, value: str) -> Any:
        """The one value of the column that is the same as a text; ``None`` where there may be others."""
        raise NotImplementedError

    def _from(self, low: str) -> Any:
        literal = self._literal(low)
        return None if literal is None else self.expressions.GreaterThanOrEqual(self.name, literal)

    def _to(self, high: str) -> Any:
        literal = self._literal(high)
        return None if literal is None else self.expressions.LessThanOrEqual(self.name, literal)


class _Numbers(_Column):
    def _literal(self, value: str) -> int | None:
        try:
            return int(value) if kind_of(value) == "number" else None
        except ValueError:  # 2.5
            return None


class _Days(_Column):
    def _literal(self, value: str) -> str | None:
        day = day_of(value)
        return None if day is None else day.isoformat()


class _Texts(_Column):
    """Of texts, ``3`` and ``03`` are the same, and so are many spellings of a point in time."""

    def exactly(self, value: str | None) -> Any:
        return self.expressions.IsNull(self.name) if value is None else self.expressions.EqualTo(self.name, value)

    def _literal(self, value: str) -> str | None:
        return value if kind_of(value) == "text" else None

    def _any_of(self, values: tuple[str | None, ...]) -> Any:
        days = [None if value is None else day_of(value) for value in values]
        if any(day is None for day in days):
            return super()._any_of(values)
        known = [day for day in days if day is not None]
        return _all_of(self.expressions, self._from(min(known).isoformat()), self._to(max(known).isoformat()))

    def _from(self, low: str) -> Any:
        if (day := day_of(low)) is None:
            return super()._from(low)
        try:
            return self.expressions.GreaterThanOrEqual(self.name, (day - ZONES).isoformat())
        except OverflowError:
            return None

    def _to(self, high: str) -> Any:
        if (day := day_of(high)) is None:
            return super()._to(high)
        try:
            return self.expressions.LessThan(self.name, (day + 2 * ZONES).isoformat())
        except OverflowError:
            return None
