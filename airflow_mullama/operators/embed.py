"""The operator that adds a column of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_mullama.operators.base import MullamaOperator


class MullamaEmbedOperator(MullamaOperator):
    """Embed a text of each row of Parquet partitions.

    The outputs have the input's columns and ``embedding: fixed_size_list<float32>[n]``, ``status``, ``error_type``,
    ``error``, ``attempts``, ``prompt_tokens``.

    Args:
        text_column: the column that holds the text.
        text_template: instead of a column, text with ``{column}`` placeholders. It is not a Jinja template.
        normalize: scale each vector to length 1.
        pooling: ``mean``, ``cls`` or ``last``; ``None``: the model's own.
        dimensions: keep only the first so many numbers of each vector (for models trained for it).
        dtype: ``float32`` or ``float16``, the type of the stored numbers.
        truncate: what becomes of a text that is longer than the model reads: ``error``, the row fails with
            ``prompt_too_long``; ``end``, its end is cut off, and the output has one column more, ``truncated``.
        **kwargs: see :class:`airflow_mullama.operators.base.MullamaOperator`.
    """

    def __init__(
        self,
        *,
        text_column: str | None = None,
        text_template: str | None = None,
        normalize: bool = True,
        pooling: str | None = None,
        dimensions: int | None = None,
        dtype: str = "float32",
        truncate: str = "error",
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

    def job_arguments(self) -> dict[str, Any]:
        return {
            "text_column": self.text_column,
            "text_template": self.text_template,
            "normalize": self.normalize,
            "pooling": self.pooling,
            "dimensions": self.dimensions,
            "dtype": self.dtype,
            "truncate": self.truncate,
        }

    def make_job(self, arguments: Mapping[str, Any]) -> Any:
        from airflow_mullama.jobs import EmbedJob

        return EmbedJob(**arguments)
