"""A Delta table's columns, and how a data file of it has them.

With column mapping a file has other names, or is to be read by the ids of its fields; columns that were added later it
lacks; what the table is partitioned by stands in the log alone. deltalake's own reader knows all that
(``DeltaTable.scan``; the tests compare with it) but promises no order of rows, and no bound of their bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from airflow_mullama.errors import UnsupportedColumnError

FIELD_ID = b"PARQUET:field_id"


@dataclass(frozen=True)
class MappedField:
    """A column of a table, or a field in one.

    Args:
        name: in the table.
        type: in the table.
        nullable: in the table.
        stored_name: in a data file.
        stored_id: in a data file; ``None`` where fields are found by their names.
        children: fields of a struct; the element of a list; key and value of a map.
    """

    name: str
    type: pa.DataType
    nullable: bool
    stored_name: str
    stored_id: int | None
    children: tuple[MappedField, ...] = ()

    @property
    def arrow(self) -> pa.Field:
        """As Arrow has it."""
        return pa.field(self.name, self.type, self.nullable)


def mapped_fields(schema_json: str, arrow_schema: pa.Schema, mode: str) -> tuple[MappedField, ...]:
    """The columns of a table.

    Args:
        schema_json: the table's schema, as the format writes it.
        arrow_schema: the same, as Arrow has it.
        mode: of the column mapping: ``none``, ``name`` or ``id``.

    Raises:
        UnsupportedColumnError: a column has a type that Arrow has not.
    """
    fields = json.loads(schema_json)["fields"]
    return tuple(_mapped(field, arrow_schema.field(field["name"]), mode) for field in fields)


def _mapped(field: Mapping[str, Any], arrow: pa.Field, mode: str) -> MappedField:
    if field["type"] == "variant":
        raise UnsupportedColumnError(
            f"The table's column {field['name']!r} is a variant, which PyArrow {pa.__version__} does not know; select "
            "it as text into a table of its own."
        )
    metadata = field.get("metadata", {}) if mode != "none" else {}
    children = _children(field["type"], arrow.type, mode)
    return MappedField(
        name=field["name"],
        type=_type_of(arrow.type, children),
        nullable=arrow.nullable,
        stored_name=metadata.get("delta.columnMapping.physicalName", field["name"]),
        stored_id=metadata.get("delta.columnMapping.id") if mode == "id" else None,
        children=children,
    )


def _children(kind: Any, arrow: pa.DataType, mode: str) -> tuple[MappedField, ...]:
    if not isinstance(kind, Mapping):
        return ()
    if kind["type"] == "struct":
        return tuple(_mapped(field, arrow.field(field["name"]), mode) for field in kind["fields"])
    if kind["type"] == "array":
        return (_mapped({"name": "element", "type": kind["elementType"]}, arrow.value_field, mode),)
    if kind["type"] == "map":
        pairs = (("key", kind["keyType"], arrow.key_field), ("value", kind["valueType"], arrow.item_field))
        return tuple(_mapped({"name": name, "type": one}, child, mode) for name, one, child in pairs)
    return ()


def _type_of(arrow: pa.DataType, children: tuple[MappedField, ...]) -> pa.DataType:
    """The type without the format's notes on its fields."""
    if pa.types.is_struct(arrow):
        return pa.struct([child.arrow for child in children])
    if pa.types.is_map(arrow):
        return pa.map_(children[0].type, children[1].type)
    if children:
        return pa.list_(pa.field("element", children[0].type, children[0].nullable))
    return arrow


@dataclass(frozen=True)
class DeltaColumns:
    """How the columns of one data file become the table's.

    Args:
        fields: the table's columns.
        values: those that the log says of the file, of the columns that the table is partitioned by.
    """

    fields: Mapping[str, MappedField]
    values: Mapping[str, Any]

    def stored_names(self, file_schema: pa.Schema, names: Sequence[str]) -> list[str]:
        """The file's columns that are needed for some of the table's."""
        places = [_place(file_schema, self.fields[name]) for name in names if name not in self.values]
        return [file_schema.field(place).name for place in places if place is not None]

    def as_of_table(self, batch: pa.RecordBatch, file_schema: pa.Schema, names: Sequence[str]) -> pa.RecordBatch:
        """Rows of the file with the table's columns."""
        fields = [self.fields[name] for name in names]
        arrays = [self._column(field, batch, file_schema) for field in fields]
        if not arrays:
            return batch.select([])
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([field.arrow for field in fields]))

    def _column(self, field: MappedField, batch: pa.RecordBatch, file_schema: pa.Schema) -> pa.Array:
        if field.name in self.values:
            value = pa.scalar(self.values[field.name], field.type)
            return pa.repeat(value, batch.num_rows)
        place = _place(file_schema, field)
        if place is None:
            return pa.nulls(batch.num_rows, field.type)
        return _conformed(batch.column(file_schema.field(place).name), field)


def _place(stored: pa.Schema | pa.StructType, field: MappedField) -> int | None:
    """Where a file has a column, or a struct in it a field; ``None`` where it was added later."""
    for place, other in enumerate(stored):
        if field.stored_id is None:
            found = other.name == field.stored_name
        else:
            found = (other.metadata or {}).get(FIELD_ID) == str(field.stored_id).encode()
        if found:
            return place
    return None


def _conformed(array: pa.Array, field: MappedField) -> pa.Array:
    """An array of the table's type, which may be wider, with the table's names inside."""
    if array.type.equals(field.type):
        return array
    if not field.children:
        return array.cast(field.type)
    if array.offset:
        array = pa.concat_arrays([array])  # from the beginning: what is made of parts has no offset
    missing = array.is_null() if array.null_count else None
    if pa.types.is_struct(field.type):
        parts = []
        for child in field.children:
            place = _place(array.type, child)
            parts.append(pa.nulls(len(array), child.type) if place is None else _conformed(array.field(place), child))
        return pa.StructArray.from_arrays(parts, fields=[child.arrow for child in field.children], mask=missing)
    if pa.types.is_map(field.type):
        key, item = field.children
        parts = [_conformed(array.keys, key), _conformed(array.items, item)]
        return pa.MapArray.from_arrays(array.offsets, *parts, type=field.type, mask=missing)
    element = _conformed(array.values, field.children[0])
    return pa.ListArray.from_arrays(array.offsets, element, type=field.type, mask=missing)
