"""The operator that adds a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_mullama.operators.base import MullamaOperator


class MullamaClassifyOperator(MullamaOperator):
    """Choose one label for each row of Parquet partitions.

    The outputs have the columns of :class:`airflow_mullama.operators.generate.MullamaGenerateOperator`,
    ``label: dictionary<string>`` and ``confidence: float64`` (null where the engine does not say).

    Args:
        labels: the list to choose from.
        text_column: the column to classify; the prompt is made of it and the labels.
        prompt_template: instead, a prompt of your own that asks for ``{"label": ...}`` (braces doubled).
        system_prompt: sent as it is before each row's prompt.
        chat: use the model's chat template; ``None``: if it carries one.
        sampling: as for generation; the default is greedy.
        **kwargs: see :class:`airflow_mullama.operators.base.MullamaOperator`.
    """

    def __init__(
        self,
        *,
        labels: Sequence[str],
        text_column: str | None = None,
        prompt_template: str | None = None,
        system_prompt: str | None = None,
        chat: bool | None = None,
        sampling: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.labels = labels
        self.text_column = text_column
        self.prompt_template = prompt_template
        self.system_prompt = system_prompt
        self.chat = chat
        self.sampling = sampling

    def job_arguments(self) -> dict[str, Any]:
        return {
            "labels": self.labels,
            "text_column": self.text_column,
            "prompt_template": self.prompt_template,
            "system_prompt": self.system_prompt,
            "chat": self.chat,
            "sampling": self.sampling,
        }

    def make_job(self, arguments: Mapping[str, Any]) -> Any:
        from airflow_mullama.classification import ClassifyJob

        return ClassifyJob(**arguments)
