"""How an output is written: its columns, their notes, and what Arrow must be told to keep the input's as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama.errors import UnsupportedColumnError
from airflow_mullama.rows import ResultColumns
from airflow_mullama.storage.parquet.annotations import (
    Annotations,
    annotate_file,
    annotated,
    footer_of,
    unsorted_leaves,
)
from airflow_mullama.storage.parquet.footer_notes import output_notes
from airflow_mullama.storage.parquet.vector_columns import holds_vectors, is_vector, stored_type
from airflow_mullama.storage.partition_input import PartitionInput

# A page ends where it is large enough, which is looked at after so many rows: of heavy rows a thousand would weigh too
# much, here and with whoever reads them. It costs no time that could be measured.
WRITE_BATCH_ROWS = 16
# What the values of a column weigh on average, at most, for these options: its row group is written a few MiB at once.
MOST_AVERAGE_BYTES = {"use_dictionary": 64 << 10, "write_statistics": 4 << 10}


@dataclass(frozen=True)
class OutputFormat:
    """What is written of an input and the columns that a job adds to it.

    Args:
        schema: of the output, with its notes.
        annotations: logical types of the input's columns that Arrow does not write of its own accord.
        options: of Arrow's writer.
        leaves: the paths of the columns' leaves.
    """

    schema: pa.Schema
    annotations: Annotations
    options: dict[str, Any]
    leaves: tuple[str, ...]

    @classmethod
    def of(cls, source: PartitionInput, columns: ResultColumns, output_prefix: str) -> OutputFormat:
        """Find it out, and try it on an output without rows.

        Raises:
            UnsupportedColumnError: a column of the input cannot be written as it is.
        """
        added = [
            field.with_name(output_prefix + field.name).with_type(stored_type(field.type)) for field in columns.fields
        ]
        schema = pa.schema([*source.schema, *added], metadata=output_notes(source.schema, added))
        keeps_int96 = source.int96.is_kept and not any(_has_timestamp(field.type) for field in added)
        trial = _written_without_rows(schema, use_deprecated_int96_timestamps=keeps_int96)
        footer = footer_of(trial)
        _, refused = annotated(footer, source.annotations)
        if refused:
            place = min(refused, key=lambda one: one.column)
            raise UnsupportedColumnError(
                f"The column {place.column!r} is of Parquet's type {source.annotations[place].name} and PyArrow "
                f"{pa.__version__} would write it as another; leave it out of the input, or write it as another type."
            )
        paths = _leaf_paths(trial)
        options = _encodings(schema, paths)
        if unsorted := unsorted_leaves(footer, source.annotations):
            options["write_statistics"] = [path for place, path in enumerate(paths) if place not in unsorted]
        return cls(
            schema,
            source.annotations,
            {**options, "use_deprecated_int96_timestamps": keeps_int96, "write_batch_size": WRITE_BATCH_ROWS},
            tuple(paths),
        )

    def options_for(self, first: pa.Table | None) -> dict[str, Any]:
        """The options of Arrow's writer, where rows are like the first ones.

        Heavy values are soon too much for a dictionary, and statistics of them too large to be written; but Arrow makes
        both, and holds each value three times more for it.
        """
        return _options_for(self.options, self.leaves, first)

    def finish(self, file: BinaryIO) -> None:
        """Put into a written file's footer what Arrow left out.

        Args:
            file: on a handle that may be read and written.

        Raises:
            ValueError: it is no Parquet file.
        """
        file.flush()
        if self.annotations:
            annotate_file(file, self.annotations)


def _options_for(options: Mapping[str, Any], leaves: Sequence[str], first: pa.Table | None) -> dict[str, Any]:
    made = dict(options)
    if first is None or not first.num_rows:
        return made
    weights = [column.nbytes / first.num_rows for column in first.columns]
    for option, most in MOST_AVERAGE_BYTES.items():
        light = {name for name, weight in zip(first.column_names, weights, strict=True) if weight <= most}
        if len(light) < len(weights):
            paths = options.get(option, leaves)
            made[option] = [path for path in paths if path.split(".")[0] in light] or False
    return made


def writer_options(schema: pa.Schema, first: pa.Table | None) -> dict[str, Any]:
    """Options of Arrow's writer for columns of common types, where rows are like the first ones.

    Raises:
        UnsupportedColumnError: Arrow cannot write one of them.
    """
    paths = _leaf_paths(_written_without_rows(schema))
    return _options_for({**_encodings(schema, paths), "write_batch_size": WRITE_BATCH_ROWS}, paths, first)


def _written_without_rows(schema: pa.Schema, **options: Any) -> bytes:
    """A Parquet file of these columns.

    Raises:
        UnsupportedColumnError: Arrow cannot write one of them.
    """
    try:
        return _empty_file(schema, options)
    except pa.ArrowException as error:
        for field in schema:
            try:
                _empty_file(pa.schema([field]), options)
            except pa.ArrowException:
                raise UnsupportedColumnError(
                    f"The column {field.name!r} is of the type {field.type}, which PyArrow {pa.__version__} cannot "
                    "write to Parquet; leave it out of the input, or write it as another type."
                ) from error
        raise


def _empty_file(schema: pa.Schema, options: dict[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink, **options)
    return bytes(sink.getvalue())


def _leaf_paths(file: bytes) -> list[str]:
    leaves = pq.ParquetFile(pa.BufferReader(file)).schema
    return [leaves.column(place).path for place in range(len(leaves))]


def _encodings(schema: pa.Schema, paths: Sequence[str]) -> dict[str, Any]:
    """How columns are encoded.

    Vectors never repeat, so a dictionary only costs; with the bytes of their floats split by place they take a tenth
    less space and are read three times faster (measured with 384 floats).
    """
    vectors = {path: is_float for field in schema for path, is_float in _vectors(field.name, field.type)}
    if not vectors:
        return {"compression": "zstd"}
    return {
        "compression": "zstd",
        "use_dictionary": [path for path in paths if path not in vectors],
        "use_byte_stream_split": [path for path, is_float in vectors.items() if is_float] or False,
    }


def _vectors(path: str, kind: pa.DataType) -> Iterator[tuple[str, bool]]:
    """The leaves of vectors, and whether their numbers are ``float32``."""
    if is_vector(kind):
        yield f"{path}.list.element", pa.types.is_float32(kind.value_type)
    elif not holds_vectors(kind):
        return
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _vectors(f"{path}.{field.name}", field.type)
    else:
        yield from _vectors(f"{path}.list.element", kind.value_type)


def _has_timestamp(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_has_timestamp(kind.field(place).type) for place in range(kind.num_fields))
    return bool(pa.types.is_timestamp(kind))
