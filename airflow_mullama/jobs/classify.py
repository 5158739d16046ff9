"""Classification: the most common job as one description. A label out of a list, and how sure the model is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from airflow_mullama.engines.reasoning import Mode
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.jobs.conversations import Example, example_messages
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.jobs.prompts import PromptTemplate

LABEL, CONFIDENCE = "label", "confidence"
CONFIDENCE_FIELD = pa.field(CONFIDENCE, pa.float64())
MOST_LABELS = 1000


@dataclass(frozen=True, kw_only=True)
class ClassifyJob(GenerateJob):
    """Add a column ``label`` and a column ``confidence``, besides those of generation.

    ``confidence`` is the chosen label's probability among all labels, 0 to 1: of the model held to them, at a
    temperature of 1. Null where the engine does not tell enough to know it.

    Args:
        labels: at least two, all different.
        text_column: the column to classify; the prompt is made of it and the labels. Or give ``prompt_template``, for a
            prompt of your own that asks for ``{"label": ...}``. With ``image_columns`` neither is needed: the pictures
            are classified.
        max_tokens: 0, the default: enough for the longest label.
        reasoning: ``off``, the default: the label is the first thing that the model says. Otherwise it thinks first, up
            to ``max_reasoning_tokens``.
        output_schema: made of the labels; it cannot be given.
    """

    labels: Sequence[str] = ()
    text_column: str | None = None
    max_tokens: int = 0
    output_schema: Any = field(init=False, default=None)
    reasoning: Mode = "off"

    def __post_init__(self) -> None:
        labels = self.labels
        if isinstance(labels, str) or not all(isinstance(label, str) and label.strip() for label in labels):
            raise ConfigurationError(f"labels is {labels!r}; it must be a list of texts that are not empty.")
        if not 2 <= len(labels) <= MOST_LABELS or len(set(labels)) < len(labels):
            raise ConfigurationError(
                f"labels has {len(labels)} entries, {len(set(labels))} of them different; give 2 to {MOST_LABELS} "
                "different labels."
            )
        object.__setattr__(self, "labels", tuple(labels))
        schema = {"type": "object", "properties": {LABEL: {"enum": list(self.labels)}}, "required": [LABEL]}
        object.__setattr__(self, "output_schema", schema)
        super().__post_init__()
        if self.reasoning != "off" and self.max_reasoning_tokens is None:
            raise ConfigurationError(
                f"reasoning is {self.reasoning!r}, and there is room for a label only: say how long the model may "
                "think, such as max_reasoning_tokens=1024."
            )

    @property
    def prompt(self) -> PromptTemplate | None:
        own = any(given is not None for given in (self.prompt_template, self.prompt_column, self.messages_column))
        if self.text_column is None and (own or self.image_columns is None):
            return super().prompt
        if own:
            raise ConfigurationError("Give either text_column or a prompt of your own, exactly one of the two.")
        return _prompt(self.labels, self.text_column, pictures=self.image_columns is not None)

    def _checked_examples(self) -> tuple[Example, ...]:
        examples = super()._checked_examples()
        for place, (_, answer) in enumerate(examples):
            if answer not in self.labels:
                raise ConfigurationError(
                    f"examples[{place}] answers {answer!r}, which is none of the labels: {', '.join(self.labels[:20])}."
                )
        return examples

    @property
    def _example_messages(self) -> list[tuple[str, str]]:
        examples = [(question, {LABEL: label}) for question, label in self._examples]
        return example_messages(examples, self.prompt, typed=True)

    @property
    def most_tokens(self) -> int:
        # A token is rarely under one byte: the longest label, and the JSON around it.
        longest = max(len(json.dumps(label, ensure_ascii=False).encode()) for label in self.labels)
        return self.max_tokens or longest + 24

    def engine_settings(self) -> dict[str, Any]:
        settings = {**super().engine_settings(), "labels": {"field": LABEL, "all": list(self.labels)}}
        if self.reasoning == "off":
            # As it has always been: a label was never preceded by thoughts.
            del settings["reasoning"]
        return settings

    @property
    def _typed_fields(self) -> tuple[pa.Field, ...]:
        return (*super()._typed_fields, CONFIDENCE_FIELD)


def _prompt(labels: Sequence[str], text_column: str | None, *, pictures: bool) -> PromptTemplate:
    listed = ", ".join(json.dumps(label, ensure_ascii=False) for label in labels)
    what = "picture" if text_column is None else "picture and the text" if pictures else "text"
    beginning = f"Choose the one label that fits the {what} best. Labels: {listed}."
    ending = f'\n\nAnswer with JSON: {{"{LABEL}": the label}}'
    if text_column is None:
        return PromptTemplate((beginning + ending,), ())
    return PromptTemplate((f"{beginning}\n\nText: ", ending), (text_column,))
