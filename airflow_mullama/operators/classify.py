"""The operator that adds a label."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow_mullama.arguments import OrNone, Whole, from_text
from airflow_mullama.operators.base import MullamaOperator
from airflow_mullama.operators.templates import lora_from_text, numbers_in


class MullamaClassifyOperator(MullamaOperator):
    """Choose one label for each row of Parquet partitions.

    The outputs have the columns of :class:`airflow_mullama.operators.generate.MullamaGenerateOperator`,
    ``label: dictionary<string>`` and ``confidence: float64`` (null where the engine does not say).

    Args:
        labels: the list to choose from.
        text_column: the column to classify; the prompt is made of it and the labels. With ``image_columns`` it may be
            left out.
        prompt_template: instead, a prompt of your own that asks for ``{"label": ...}`` (braces doubled), or its file.
        system_prompt: sent before each row's prompt, with ``{column}`` placeholders; or its file.
        examples: pairs of an input and its label that are put before each row, or the path of a JSON file of them.
        chat: use the model's chat template; ``None``: if it carries one.
        sampling: as for generation; the default is greedy.
        image_columns, image_root, mmproj: pictures to classify, or beside the text, as for generation (templated).
        lora: adapters that change the model, as for generation (templated).
        reasoning: ``off``, the default: the label is the first thing that the model says; ``separate`` or ``discard``:
            it thinks first, up to ``max_reasoning_tokens``, as for generation (templated).
        reasoning_tags, max_reasoning_tokens, chat_template_kwargs: as for generation.
        **kwargs: see :class:`airflow_mullama.operators.base.MullamaOperator`.
    """

    template_fields: ClassVar[Sequence[str]] = (  # type: ignore[misc]
        *MullamaOperator.template_fields,
        "labels",
        "text_column",
        "prompt_template",
        "system_prompt",
        "sampling",
        "image_columns",
        "image_root",
        "mmproj",
        "lora",
        "reasoning",
        "max_reasoning_tokens",
        "chat_template_kwargs",
    )
    prompt_fields: ClassVar[tuple[str, ...]] = ("prompt_template", "system_prompt")
    json_fields: ClassVar[tuple[str, ...]] = ("examples",)

    def __init__(
        self,
        *,
        labels: Sequence[str],
        text_column: str | None = None,
        prompt_template: str | os.PathLike[str] | None = None,
        system_prompt: str | os.PathLike[str] | None = None,
        examples: Sequence[tuple[Any, str]] | str | os.PathLike[str] | None = None,
        chat: bool | None = None,
        sampling: Mapping[str, Any] | None = None,
        image_columns: Sequence[str] | None = None,
        image_root: str | None = None,
        mmproj: str | None = None,
        lora: Sequence[Mapping[str, Any]] | None = None,
        reasoning: str = "off",
        reasoning_tags: Sequence[str] | None = None,
        max_reasoning_tokens: int | str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.labels = labels
        self.text_column = text_column
        self.prompt_template = prompt_template
        self.system_prompt = system_prompt
        self.examples = examples
        if isinstance(examples, (str, os.PathLike)):
            self.template_fields = (*self.template_fields, "examples")  # type: ignore[misc]
        self.chat = chat
        self.sampling = sampling
        self.image_columns = image_columns
        self.image_root = image_root
        self.mmproj = mmproj
        self.lora = lora
        self.reasoning = reasoning
        self.reasoning_tags = reasoning_tags
        self.max_reasoning_tokens = max_reasoning_tokens
        self.chat_template_kwargs = chat_template_kwargs

    def job_arguments(self) -> dict[str, Any]:
        return {
            "labels": self.labels,
            "text_column": self.text_column,
            "prompt_template": self.prompt_template,
            "system_prompt": self.system_prompt,
            "examples": self.examples,
            "chat": self.chat,
            "sampling": numbers_in(self.sampling, but=["stop"]),
            "image_columns": self.image_columns,
            "image_root": self.image_root,
            "mmproj": self.mmproj,
            "lora": lora_from_text(self.lora),
            "reasoning": self.reasoning,
            "reasoning_tags": self.reasoning_tags,
            "max_reasoning_tokens": from_text(self.max_reasoning_tokens, OrNone(Whole(1))),
            "chat_template_kwargs": self.chat_template_kwargs,
        }

    def make_job(self, arguments: Mapping[str, Any]) -> Any:
        from airflow_mullama.jobs.classify import ClassifyJob

        return ClassifyJob(**arguments)
