"""The pictures of a row's request: columns that hold them, or the paths of their files."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Union

import pyarrow as pa
from pyarrow import types

from airflow_mullama.byte_bounds import LARGEST_ROW_BYTES, MIB, READ_BATCH_BYTES
from airflow_mullama.engines.pictures import (
    MOST_PICTURES,
    MOST_ROW_PIXELS,
    NoPictureError,
    Picture,
    pixels_of,
    read_picture,
)
from airflow_mullama.errors import ConfigurationError, UnsupportedColumnError
from airflow_mullama.jobs.prompts import (
    PicturePath,
    Pictures,
    RequestTemplate,
    RequestText,
    require_columns,
    row_spans_of,
    turns_of,
)
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.storage.picture_files import Unread, shown_path

# Rows whose files are read together, unless they are heavy: a store answers several questions in the time of one.
ROWS_READ_TOGETHER = 16
# How the library datasets writes its pictures: their bytes, or else their path.
BYTES, PATH = "bytes", "path"

Value = Union[bytes, str, Unread]  # noqa: UP007 - a runtime value
"""A picture's bytes, its path, or why it is neither."""
Content = Union[bytes, Unread, None]  # noqa: UP007 - a runtime value
"""A file's bytes; ``None`` where files are not read."""


class FileReader(Protocol):
    """Reads files that rows name."""

    def sizes(self, paths: Sequence[str]) -> list[int]:
        """How many bytes each has, in order; 0 if it cannot be read."""
        ...

    def read(self, paths: Sequence[str]) -> list[bytes | Unread]:
        """The content of each, in order."""
        ...


def checked_image_columns(columns: Any) -> tuple[str, ...]:
    """The argument ``image_columns`` of a job.

    Raises:
        ConfigurationError: it is no list of different names.
    """
    sound = isinstance(columns, Sequence) and not isinstance(columns, (str, bytes))
    if not sound or not columns or not all(isinstance(name, str) and name for name in columns):
        raise ConfigurationError(
            f"image_columns is {columns!r}; it must be a list of columns, such as ['photo'], whose values are pictures "
            "or their paths."
        )
    if len(set(columns)) < len(columns) or len(columns) > MOST_PICTURES:
        raise ConfigurationError(
            f"image_columns is {list(columns)!r}; it must name different columns, {MOST_PICTURES} at most."
        )
    return tuple(columns)


@dataclass(frozen=True)
class PictureTemplate:
    """Renders a row's request with its pictures, which stand before the text of its last message.

    Args:
        request: renders the text.
        image_columns: whose values are the pictures, in this order.
        image_root: where their paths begin, as the job has it.
        files: reads those that are paths; ``None`` leaves them unread, for requests that are only compared.
    """

    request: RequestTemplate
    image_columns: tuple[str, ...]
    image_root: str | None = None
    files: FileReader | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that stand in a request, in order."""
        return (*self.request.columns, *self.image_columns)

    @property
    def distinct_columns(self) -> list[str]:
        """Columns to read, each once, in order of first use."""
        return list(dict.fromkeys(self.columns))

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from others (JSON)."""
        return {
            "request": self.request.identity,
            "image_columns": list(self.image_columns),
            "image_root": self.image_root,
        }

    def require_columns(self, available: Sequence[str], source: str | None = None) -> None:
        """See :meth:`airflow_mullama.jobs.prompts.PromptTemplate.require_columns`."""
        require_columns(self.columns, available, source)

    def require_types(self, schema: pa.Schema, source: str | None = None) -> None:
        """Refuse a column that can hold no pictures.

        Raises:
            UnsupportedColumnError: says what it must be.
        """
        self.request.require_types(schema, source)
        for name in self.image_columns:
            kind = schema.field(name).type
            if not _holds_pictures(kind):
                of_input = "" if source is None else f" of {source!r}"
                raise UnsupportedColumnError(
                    f"The column {name!r}{of_input} is of the type {kind}, and image_columns must be binary (the "
                    "pictures), string (their paths), struct<bytes, path>, or lists of one of them."
                )

    def names_files(self, schema: pa.Schema) -> bool:
        """Whether the values of a column may be paths.

        Args:
            schema: of the input.
        """
        return any(_may_be_paths(schema.field(name).type) for name in self.image_columns)

    def paths_begin_at_input(self, schema: pa.Schema) -> bool:
        """Whether the same path names another file where the input lies in another folder.

        Args:
            schema: of rows of the input; columns may be missing.
        """
        there = [name for name in self.image_columns if schema.get_field_index(name) >= 0]
        return self.image_root is None and any(_may_be_paths(schema.field(name).type) for name in there)

    def rows_at_once(self, batch: pa.RecordBatch) -> int:
        """As many as have files of a batch's weight together."""
        if self.files is None or not self.names_files(batch.schema):
            return int(batch.num_rows)
        some = batch.slice(0, ROWS_READ_TOGETHER)
        columns = [_values(some.column(name)) for name in self.image_columns]
        rows = [[value for column in columns for value in column[row]] for row in range(some.num_rows)]
        rows = [row if len(row) <= MOST_PICTURES else [] for row in rows]  # others are refused, and not looked at
        self.files.sizes([value for row in rows for value in row if isinstance(value, str)])  # of all at once
        weights = [self._weight(row) for row in rows]
        return max(1, sum(total <= READ_BATCH_BYTES for total in itertools.accumulate(weights)))

    def render(self, batch: pa.RecordBatch) -> list[str | RowError]:
        """One request per row, or why there is none. Never raises for what a row holds."""
        texts = self.request.render(batch)
        columns = [(name, _values(batch.column(name))) for name in self.image_columns]
        values = [
            text if isinstance(text, RowError) else self._gathered([(name, column[row]) for name, column in columns])
            for row, text in enumerate(texts)
        ]
        read = self._read([path for of_row in values if not isinstance(of_row, RowError) for path in _paths(of_row)])
        pictures = [of_row if isinstance(of_row, RowError) else _pictures(of_row, read) for of_row in values]
        return [_with_pictures(text, found) for text, found in zip(texts, pictures, strict=True)]

    def _gathered(self, of_row: Sequence[tuple[str, Sequence[Value]]]) -> list[tuple[str, Value]] | RowError:
        """All pictures of a row, each with its column."""
        found = [(name, value) for name, values in of_row for value in values]
        if not found:
            names = ", ".join(map(repr, self.image_columns))
            return RowError(ErrorType.NULL_INPUT, f"no picture: column {names} is null or an empty list")
        if len(found) > MOST_PICTURES:
            return RowError(
                ErrorType.UNREADABLE_IMAGE, f"the row has {len(found)} pictures, and {MOST_PICTURES} are the most"
            )
        if (weight := self._weight([value for _, value in found])) > LARGEST_ROW_BYTES:
            return RowError(
                ErrorType.ROW_TOO_LARGE,
                f"its pictures have {weight / MIB:,.1f} MiB, and {LARGEST_ROW_BYTES // MIB} MiB is the most",
            )
        return found

    def _weight(self, values: Sequence[Value]) -> int:
        """Bytes of a row's pictures."""
        paths = [value for value in values if isinstance(value, str)]
        of_files = sum(self.files.sizes(paths)) if self.files is not None and paths else 0
        return of_files + sum(len(value) for value in values if isinstance(value, bytes))

    def _read(self, paths: Sequence[str]) -> Mapping[str, Content]:
        distinct = list(dict.fromkeys(paths))
        if self.files is None or not distinct:
            return dict.fromkeys(distinct)
        return dict(zip(distinct, self.files.read(distinct), strict=True))


def _pictures(of_row: Sequence[tuple[str, Value]], read: Mapping[str, Content]) -> Pictures | RowError:
    pictures: list[Picture | PicturePath] = []
    for name, value in of_row:
        what = f"column {name!r}"
        content: Content = read[value] if isinstance(value, str) else value
        if isinstance(value, str):
            what = f"{what}: {shown_path(value)!r}"
            if content is None:
                pictures.append(PicturePath(value))
                continue
        assert content is not None
        if isinstance(content, Unread):
            error_type = ErrorType.MISSING_IMAGE if content.may_pass else ErrorType.UNREADABLE_IMAGE
            return RowError(error_type, f"{what} {content.reason}")
        try:
            pictures.append(read_picture(content))
        except NoPictureError as error:
            return RowError(ErrorType.UNREADABLE_IMAGE, f"{what} {error}")
    pixels = sum(pixels_of(picture) for picture in pictures if isinstance(picture, Picture)) if pictures[1:] else 0
    if pixels > MOST_ROW_PIXELS:
        return RowError(
            ErrorType.ROW_TOO_LARGE,
            f"its pictures have {pixels:,} pixels together, and {MOST_ROW_PIXELS:,} are the most",
        )
    return tuple(pictures)


def _with_pictures(text: str | RowError, pictures: Pictures | RowError) -> RequestText | RowError:
    if isinstance(text, RowError):
        return text
    if isinstance(pictures, RowError):
        return pictures
    spans = row_spans_of(text)
    return RequestText(str(text), (0, len(text)) if spans is None else spans, turns_of(text), pictures)


def _paths(of_row: Sequence[tuple[str, Value]]) -> list[str]:
    return [value for _, value in of_row if isinstance(value, str)]


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    return types.is_nested(kind) and not types.is_map(kind) and hasattr(kind, "value_field")


def _is_struct(kind: pa.DataType) -> bool:
    if not types.is_struct(kind):
        return False
    fields = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
    return (BYTES in fields and _is_bytes(fields[BYTES])) and (PATH not in fields or _is_text(fields[PATH]))


def _holds_pictures(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        kind = kind.value_type
    if _is_list(kind):
        kind = kind.value_type
    return _is_bytes(kind) or _is_text(kind) or _is_struct(kind)


def _may_be_paths(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind) or _is_list(kind):
        return _may_be_paths(kind.value_type)
    return _is_text(kind) or (_is_struct(kind) and kind.get_field_index(PATH) >= 0)


def _values(column: pa.Array) -> list[Sequence[Value]]:
    """The pictures or paths of each row; a null is none."""
    if isinstance(column, pa.DictionaryArray):
        # A value that many rows have is in memory once.
        known = _values(column.dictionary)
        return [() if index is None else known[index] for index in column.indices.to_pylist()]
    try:
        return [_of_row(value) for value in column.to_pylist()]
    except UnicodeDecodeError:
        return [_of_scalar(scalar) for scalar in column]


def _of_scalar(scalar: pa.Scalar) -> Sequence[Value]:
    try:
        return _of_row(scalar.as_py())
    except UnicodeDecodeError as error:
        return (Unread(f"holds bytes that are not UTF-8: {error.reason}", may_pass=False),)


def _of_row(value: Any) -> Sequence[Value]:
    if value is None:
        return ()
    if isinstance(value, list):
        return [one for item in value for one in _of_row(item)]
    if isinstance(value, dict):
        return _of_row(value[BYTES] if value[BYTES] is not None else value.get(PATH))
    return (value,)
