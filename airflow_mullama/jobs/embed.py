"""The job that adds a column of embeddings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa

from airflow_mullama.arguments import OneOf, OrNone, Whole, require
from airflow_mullama.documents.chunking import Chunking, require_splitter
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.jobs.job import Job
from airflow_mullama.jobs.prompts import PromptTemplate, row_spans_of, template_or_column
from airflow_mullama.jobs.text_files import text_of
from airflow_mullama.row_counts import RowCounts
from airflow_mullama.rows import (
    EMBEDDING_COLUMN_NAMES,
    TRUNCATED,
    ResultColumns,
    Status,
    document_columns,
    embedding_columns,
)
from airflow_mullama.storage.chunk_rows.columns import chunk_row_columns
from airflow_mullama.storage.chunk_rows.output import ChunkRowsOutput
from airflow_mullama.storage.partition_output import PartitionOutput

POOLING = ("mean", "cls", "last")
TRUNCATE = ("error", "end")
POOLED = ("mean",)
CHUNK_OUTPUTS = ("list", "rows")
DTYPES: Mapping[str, pa.DataType] = {"float32": pa.float32(), "float16": pa.float16()}


@dataclass(frozen=True, kw_only=True)
class EmbedJob(Job):
    """Add a column of embeddings.

    Args:
        text_column: the column that holds the text.
        text_template: instead of a column, text with ``{column}`` placeholders, or the file that holds it.
        normalize: scale each vector to length 1.
        pooling: ``mean``, ``cls`` or ``last``; ``None``: the model's own.
        dimensions: keep only this many numbers of each vector, the first ones (for models trained for it).
        dtype: ``float32`` or ``float16``, the type of the stored numbers.
        truncate: what becomes of a text that is longer than the model reads: ``error``, the row fails with
            ``prompt_too_long``; ``end``, its end is cut off, and the output has one column more, ``truncated``.
        chunking: cut each text into chunks and embed these: ``{"tokens": 256, "overlap": 32, "by": "sentence"}``
            (:class:`airflow_mullama.documents.chunking.Chunking`). The column ``embedding`` is then ``chunks``.
        chunk_output: ``list``: one row for each row, with its chunks in the column ``chunks``; ``rows``: one row for
            each chunk, without the column that was cut, whose text is in ``chunk_text``.
        pooled: ``mean``: with ``chunking``, also a vector of each whole text, the mean of its chunks'.
    """

    text_column: str | None = None
    text_template: str | os.PathLike[str] | None = None
    normalize: bool = True
    pooling: Literal["mean", "cls", "last"] | None = None
    dimensions: int | None = None
    dtype: Literal["float32", "float16"] = "float32"
    truncate: Literal["error", "end"] = "error"
    chunking: Chunking | Mapping[str, Any] | None = None
    chunk_output: Literal["list", "rows"] = "list"
    pooled: Literal["mean"] | None = None

    task: ClassVar[Literal["generate", "embed"]] = "embed"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "text_template", text_of("text_template", self.text_template))
        _ = self.template
        require("pooling", self.pooling, OrNone(OneOf(POOLING)))
        require("dtype", self.dtype, OneOf(tuple(DTYPES)))
        require("dimensions", self.dimensions, OrNone(Whole(1, 1_000_000)))
        if not isinstance(self.normalize, bool):
            raise ConfigurationError(f"normalize is {self.normalize!r}; it must be True or False.")
        require("truncate", self.truncate, OneOf(TRUNCATE))
        if self.truncate == "end" and not self.engine_spec.truncates:
            raise ConfigurationError(
                f"truncate='end', and the engine {self.engine_spec.name!r} cannot cut texts at the model's limit; "
                "leave it out, so that such rows fail alone, or use the engine 'llamacpp'."
            )
        require("chunk_output", self.chunk_output, OneOf(CHUNK_OUTPUTS))
        require("pooled", self.pooled, OrNone(OneOf(POOLED)))
        if self.chunking is not None:
            object.__setattr__(self, "chunking", Chunking.of(self.chunking))
            self._check_chunking()
        elif self.chunk_output != "list":
            raise ConfigurationError(
                f"chunk_output is {self.chunk_output!r}, and without chunking there are no chunks; leave it out, or "
                "give chunking."
            )
        elif self.pooled is not None:
            raise ConfigurationError(
                f"pooled is {self.pooled!r}, and without chunking a text has one vector anyway; leave it out, or give "
                "chunking."
            )

    def _check_chunking(self) -> None:
        require_splitter()
        if self.truncate == "end":
            raise ConfigurationError(
                "chunking and truncate='end' do not go together: with chunking no part of a text is left out; leave "
                "out one of the two."
            )
        if self.chunk_output == "rows" and self.pooled is not None:
            raise ConfigurationError(
                f"pooled is {self.pooled!r}, and with chunk_output='rows' each row has the vector of its chunk; leave "
                "out one of the two."
            )
        _ = self._document_part

    @property
    def _document_part(self) -> int | None:
        """Which of the template's columns is cut, by place; ``None`` where a text is one column and nothing else.

        Raises:
            ConfigurationError: the template does not tell.
        """
        assert isinstance(self.chunking, Chunking)
        template, named = self.template, self.chunking.column
        listed = ", ".join(map(repr, template.distinct_columns)) or "none"
        if named is None and len(template.distinct_columns) != 1:
            raise ConfigurationError(
                f"The text has {len(template.distinct_columns)} columns ({listed}), and one of them is to be cut into "
                "chunks: name it as chunking['column']; the others are repeated with each chunk."
            )
        column = template.columns[0] if named is None else named
        if (count := template.columns.count(column)) != 1:
            raise ConfigurationError(
                f"The column {column!r} is to be cut into chunks and stands in the text {count} times (its columns: "
                f"{listed}); it must stand there once."
            )
        is_bare = not any(template.literals) and len(template.columns) == 1
        return None if is_bare else template.columns.index(column)

    @property
    def template(self) -> PromptTemplate:
        return template_or_column("text_template", self.text_template, "text_column", self.text_column)

    @property
    def _writes_chunk_rows(self) -> bool:
        return self.chunking is not None and self.chunk_output == "rows"

    def output(self, place: PartitionOutput) -> PartitionOutput:
        if not self._writes_chunk_rows:
            return place
        return ChunkRowsOutput(place, self.output_prefix, self.left_out_columns[0], self._document_texts)

    @property
    def left_out_columns(self) -> tuple[str, ...]:
        return (self.template.columns[self._document_part or 0],) if self._writes_chunk_rows else ()

    def output_rows(self, counts: RowCounts) -> int | None:
        if not self._writes_chunk_rows:
            return None
        return (counts.chunks or 0) + counts.rows - counts.status_counts.get(Status.SUCCESS.value, 0)

    def _document_texts(self, batch: pa.RecordBatch) -> list[str | None]:
        """Of rows of the input, what is cut."""
        part = self._document_part
        return [document_of(text, part) if isinstance(text, str) else None for text in self.template.render(batch)]

    def request_identity(self) -> dict[str, Any]:
        identity = super().request_identity()
        return {**identity, "chunk_output": self.chunk_output} if self._writes_chunk_rows else identity

    def engine_settings(self) -> dict[str, Any]:
        return {
            "normalize": self.normalize,
            "pooling": self.pooling,
            "dimensions": self.dimensions,
            "dtype": self.dtype,
            "truncate": self.truncate,
            **self._chunking_settings,
        }

    @property
    def _chunking_settings(self) -> dict[str, Any]:
        if not isinstance(self.chunking, Chunking):
            return {}
        chunking = {**self.chunking.to_json(), "part": self._document_part}
        return {"chunking": chunking, "pooled": self.pooled}

    def result_columns(self, dimensions: int | None) -> ResultColumns:
        if dimensions is None:
            raise ConfigurationError("The engine did not say how long its vectors are.")
        length, value_type = self.dimensions or dimensions, DTYPES[self.dtype]
        if self.chunking is not None:
            return document_columns(length, value_type, pooled=self.pooled is not None)
        return embedding_columns(length, value_type, truncated=self.truncate == "end")

    @property
    def added_column_names(self) -> tuple[str, ...]:
        if self.chunking is not None:
            columns = self.result_columns(1)
            return tuple((chunk_row_columns(columns) if self._writes_chunk_rows else columns).schema.names)
        return (*EMBEDDING_COLUMN_NAMES, *((TRUNCATED,) if self.truncate == "end" else ()))


def document_of(text: str, part: int | None) -> str:
    """The part of a rendered request that is cut into chunks."""
    spans = row_spans_of(text)
    if part is None or spans is None:
        return text
    return text[spans[2 * part] : spans[2 * part + 1]]
