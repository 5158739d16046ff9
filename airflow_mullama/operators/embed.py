"""The operator that adds a column of embeddings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow_mullama.operators.base import MullamaOperator
from airflow_mullama.operators.templates import numbers_in


class MullamaEmbedOperator(MullamaOperator):
    """Embed a text of each row of Parquet partitions.

    The outputs have the input's columns and ``embedding: fixed_size_list<float32>[n]``, ``status``, ``error_type``,
    ``error``, ``attempts``, ``prompt_tokens``.

    Args:
        text_column: the column that holds the text (templated).
        text_template: instead of a column, text with ``{column}`` placeholders (templated: only what begins with a name
            of Airflow's, such as ``{{ params.x }}``; other doubled braces are literal ones), or the file that holds it.
        normalize: scale each vector to length 1.
        pooling: ``mean``, ``cls`` or ``last``; ``None``: the model's own.
        dimensions: keep only this many numbers of each vector, the first ones (for models trained for it).
        dtype: ``float32`` or ``float16``, the type of the stored numbers.
        truncate: what becomes of a text that is longer than the model reads: ``error``, the row fails with
            ``prompt_too_long``; ``end``, its end is cut off, and the output has one column more, ``truncated``.
        chunking: cut each text into chunks and embed these, in a column ``chunks`` instead of ``embedding``, such as
            ``{"tokens": 256, "overlap": 32, "by": "sentence"}`` (docs/documents.md; templated).
        chunk_output: ``list``, or ``rows`` for one row for each chunk.
        pooled: ``mean``: with ``chunking``, also a vector of each whole text, the mean of its chunks'.
        **kwargs: see :class:`airflow_mullama.operators.base.MullamaOperator`.
    """

    template_fields: ClassVar[Sequence[str]] = (  # type: ignore[misc]
        *MullamaOperator.template_fields,
        "text_column",
        "text_template",
        "chunking",
    )
    prompt_fields: ClassVar[tuple[str, ...]] = ("text_template",)

    def __init__(
        self,
        *,
        text_column: str | None = None,
        text_template: str | os.PathLike[str] | None = None,
        normalize: bool = True,
        pooling: str | None = None,
        dimensions: int | None = None,
        dtype: str = "float32",
        truncate: str = "error",
        chunking: Mapping[str, Any] | None = None,
        chunk_output: str = "list",
        pooled: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.text_column = text_column
        self.text_template = text_template
        self.normalize = normalize
        self.pooling = pooling
        self.dimensions = dimensions
        self.dtype = dtype
        self.truncate = truncate
        self.chunking = chunking
        self.chunk_output = chunk_output
        self.pooled = pooled

    def job_arguments(self) -> dict[str, Any]:
        return {
            "text_column": self.text_column,
            "text_template": self.text_template,
            "normalize": self.normalize,
            "pooling": self.pooling,
            "dimensions": self.dimensions,
            "dtype": self.dtype,
            "truncate": self.truncate,
            "chunking": numbers_in(self.chunking, but=("by", "column")),
            "chunk_output": self.chunk_output,
            "pooled": self.pooled,
        }

    def make_job(self, arguments: Mapping[str, Any]) -> Any:
        from airflow_mullama.jobs.embed import EmbedJob

        return EmbedJob(**arguments)
