"""The operator that adds a column of generated text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_mullama.operators.base import MullamaOperator


class MullamaGenerateOperator(MullamaOperator):
    """Generate a text for each row of Parquet partitions.

    The outputs have the input's columns and ``response``, ``status``, ``error_type``, ``error``, ``attempts``,
    ``finish_reason``, ``prompt_tokens``, ``completion_tokens``. A failed row is a row with ``error_type`` and
    ``error``, not a failed task.

    Args:
        prompt_template: text with ``{column}`` placeholders. It is not a Jinja template: braces mean columns here.
        prompt_column: instead of a template, the column that holds the prompt.
        system_prompt: sent as it is before each row's prompt.
        chat: use the model's chat template; ``None``: if it carries one.
        max_tokens: most tokens of one answer.
        sampling: ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``seed``, ``stop`` and penalties, as llama.cpp
            spells them; the default is greedy.
        output_schema: what an answer must look like, so that it becomes typed columns: a JSON Schema (a dictionary, or
            the path of a file), a Pydantic model class or a :class:`pyarrow.Schema`.
        repair_prompt: tell the model what was wrong when it is asked again because of an answer that breaks the schema.
        **kwargs: see :class:`airflow_mullama.operators.base.MullamaOperator`.
    """

    def __init__(
        self,
        *,
        prompt_template: str | None = None,
        prompt_column: str | None = None,
        system_prompt: str | None = None,
        chat: bool | None = None,
        max_tokens: int = 256,
        sampling: Mapping[str, Any] | None = None,
        output_schema: Any = None,
        repair_prompt: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prompt_template = prompt_template
        self.prompt_column = prompt_column
        self.system_prompt = system_prompt
        self.chat = chat
        self.max_tokens = max_tokens
        self.sampling = sampling
        self.output_schema = output_schema
        self.repair_prompt = repair_prompt

    def job_arguments(self) -> dict[str, Any]:
        return {
            "prompt_template": self.prompt_template,
            "prompt_column": self.prompt_column,
            "system_prompt": self.system_prompt,
            "chat": self.chat,
            "max_tokens": self.max_tokens,
            "sampling": self.sampling,
            "output_schema": self.output_schema,
            "repair_prompt": self.repair_prompt,
        }

    def make_job(self, arguments: Mapping[str, Any]) -> Any:
        from airflow_mullama.jobs import GenerateJob

        return GenerateJob(**arguments)
