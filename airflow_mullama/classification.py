"""Classification: the commonest job as one description. A label out of a list, and how sure the model is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.jobs import GenerateJob
from airflow_mullama.rows import ResultColumns, generation_columns

LABEL, CONFIDENCE = "label", "confidence"
CONFIDENCE_FIELD = pa.field(CONFIDENCE, pa.float64())
MOST_LABELS = 1000


@dataclass(frozen=True, kw_only=True)
class ClassifyJob(GenerateJob):
    """Add a column ``label`` and a column ``confidence``, besides those of generation.

    ``confidence`` is the chosen label's probability among all labels, 0 to 1, from the probabilities of its tokens
    (:func:`airflow_mullama.engines.label_confidence.label_confidence`); null where the engine does not give them.

    Args:
        labels: at least two, all different.
        text_column: the column to classify; the prompt is made of it and the labels. Or give ``prompt_template``, for a
            prompt of your own that asks for ``{"label": ...}``.
        max_tokens: enough for the longest label by default.
    """

    labels: Sequence[str] = ()
    text_column: str | None = None
    max_tokens: int = 0

    def __post_init__(self) -> None:
        labels = self.labels
        if isinstance(labels, str) or not all(isinstance(label, str) and label.strip() for label in labels):
            raise ConfigurationError(f"labels is {labels!r}; it must be a list of texts that are not empty.")
        if not 2 <= len(labels) <= MOST_LABELS or len(set(labels)) < len(labels):
            raise ConfigurationError(
                f"labels has {len(labels)} entries, {len(set(labels))} of them different; give 2 to {MOST_LABELS} "
                "different labels."
            )
        if self.output_schema is not None and not isinstance(self.output_schema, dict):
            raise ConfigurationError("output_schema is made of labels; leave it out.")
        object.__setattr__(self, "labels", tuple(labels))
        if self.text_column is not None:
            if self.prompt_template is not None or self.prompt_column is not None:
                raise ConfigurationError("Give either text_column or a prompt of your own, exactly one of the two.")
            object.__setattr__(self, "prompt_template", _prompt(self.labels, self.text_column))
        schema = {"type": "object", "properties": {LABEL: {"enum": list(self.labels)}}, "required": [LABEL]}
        object.__setattr__(self, "output_schema", schema)
        if not self.max_tokens:
            # A token is rarely under one byte: the longest label, and the JSON around it.
            longest = max(len(json.dumps(label, ensure_ascii=False).encode()) for label in self.labels)
            object.__setattr__(self, "max_tokens", longest + 24)
        super().__post_init__()

    def engine_settings(self) -> dict[str, Any]:
        return {**super().engine_settings(), "labels": {"field": LABEL, "all": list(self.labels)}}

    def result_columns(self, dimensions: int | None) -> ResultColumns:
        assert self.schema is not None
        return generation_columns((*self.schema.fields, CONFIDENCE_FIELD))

    @property
    def added_column_names(self) -> tuple[str, ...]:
        return (*super().added_column_names, CONFIDENCE)


def _prompt(labels: Sequence[str], text_column: str) -> str:
    listed = ", ".join(json.dumps(label, ensure_ascii=False) for label in labels)
    literal = f"Choose the one label that fits the text best. Labels: {listed}.\n\nText: "
    ending = f'\n\nAnswer with JSON: {{"{LABEL}": the label}}'
    return _escaped(literal) + "{" + text_column + "}" + _escaped(ending)


def _escaped(literal: str) -> str:
    return literal.replace("{", "{{").replace("}", "}}")
