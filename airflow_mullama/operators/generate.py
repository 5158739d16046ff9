"""The operator that adds a column of generated text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow_mullama.arguments import OrNone, Whole, from_text
from airflow_mullama.operators.base import MullamaOperator
from airflow_mullama.operators.templates import lora_from_text, numbers_in


class MullamaGenerateOperator(MullamaOperator):
    """Generate a text for each row of Parquet partitions.

    The outputs have the input's columns and ``response``, ``status``, ``error_type``, ``error``, ``attempts``,
    ``finish_reason``, ``prompt_tokens``, ``completion_tokens``, ``reasoning``, ``reasoning_tokens``. A failed row is a
    row with ``error_type`` and ``error``, not a failed task.

    Args:
        prompt_template: text with ``{column}`` placeholders (templated: only what begins with a name of Airflow's, such
            as ``{{ params.x }}``; other doubled braces are literal ones), or the file that holds it, such as
            ``prompts/tag.txt``, looked for beside the DAG file and in the DAG's ``template_searchpath``.
        prompt_column: instead of a template, the column that holds the prompt (templated).
        messages_column: instead of both, the column that holds a conversation, as a list of ``{role, content}`` or as
            JSON text of one (templated).
        system_prompt: sent before each row's prompt, with ``{column}`` placeholders (templated as ``prompt_template``);
            or a file likewise.
        examples: pairs of an input and its answer that are put before each row, or the path of a JSON file of them.
        chat: use the model's chat template; ``None``: if it carries one.
        max_tokens: most tokens of one answer (templated).
        sampling: ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``seed``, ``stop`` and penalties, as llama.cpp
            spells them; the default is greedy (templated).
        output_schema: what an answer must look like, so that it becomes typed columns: a JSON Schema (a dictionary, or
            the path of a file, found likewise), a Pydantic model class or a :class:`pyarrow.Schema`.
        image_columns: columns whose values are pictures (PNG, JPEG, WebP) or the paths of their files, or lists of
            them (templated).
        image_root: the folder, or URL of one, that those paths begin at and may not leave; ``None``: the input's
            (templated).
        mmproj: the projector that brings pictures to the model, with the engine ``llamacpp``; as for ``model``
            (templated).
        lora: adapters that change the model, each a dictionary with ``path`` (as for ``model``) and ``scale`` (1.0)
            (templated).
        n: answers to each row, all in the column ``responses``; it needs a temperature (templated).
        logprobs: also say how likely an answer's tokens were: their mean and least log-probability.
        repair_prompt: tell the model what was wrong when it is asked again because of an answer that breaks the schema.
        reasoning: what becomes of what a model thinks before it answers: ``separate`` (the columns ``reasoning`` and
            ``reasoning_tokens``), ``discard``, or ``off``: it is told not to think (templated).
        reasoning_tags: what its thoughts stand between, where its chat template does not tell.
        max_reasoning_tokens: most tokens of its thoughts, apart from ``max_tokens``; when they are spent, the answer is
            asked for (templated).
        chat_template_kwargs: further variables of the chat template, such as ``{"reasoning_effort": "high"}``
            (templated).
        **kwargs: see :class:`airflow_mullama.operators.base.MullamaOperator`.
    """

    template_fields: ClassVar[Sequence[str]] = (  # type: ignore[misc]
        *MullamaOperator.template_fields,
        "prompt_template",
        "prompt_column",
        "messages_column",
        "system_prompt",
        "max_tokens",
        "sampling",
        "image_columns",
        "image_root",
        "mmproj",
        "lora",
        "n",
        "reasoning",
        "max_reasoning_tokens",
        "chat_template_kwargs",
    )
    prompt_fields: ClassVar[tuple[str, ...]] = ("prompt_template", "system_prompt")
    json_fields: ClassVar[tuple[str, ...]] = ("output_schema", "examples")

    def __init__(
        self,
        *,
        prompt_template: str | os.PathLike[str] | None = None,
        prompt_column: str | None = None,
        messages_column: str | None = None,
        system_prompt: str | os.PathLike[str] | None = None,
        examples: Sequence[tuple[Any, Any]] | str | os.PathLike[str] | None = None,
        chat: bool | None = None,
        max_tokens: int | str = 256,
        sampling: Mapping[str, Any] | None = None,
        output_schema: Any = None,
        repair_prompt: bool = False,
        image_columns: Sequence[str] | None = None,
        image_root: str | None = None,
        mmproj: str | None = None,
        lora: Sequence[Mapping[str, Any]] | None = None,
        n: int | str = 1,
        logprobs: bool = False,
        reasoning: str = "separate",
        reasoning_tags: Sequence[str] | None = None,
        max_reasoning_tokens: int | str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prompt_template = prompt_template
        self.prompt_column = prompt_column
        self.messages_column = messages_column
        self.system_prompt = system_prompt
        self.examples = examples
        self.chat = chat
        self.max_tokens = max_tokens
        self.sampling = sampling
        self.output_schema = output_schema
        shown = [name for name in self.json_fields if isinstance(getattr(self, name), (str, os.PathLike))]
        self.template_fields = (*self.template_fields, *shown)  # type: ignore[misc] # the others stand in the DAG
        self.repair_prompt = repair_prompt
        self.image_columns = image_columns
        self.image_root = image_root
        self.mmproj = mmproj
        self.lora = lora
        self.n = n
        self.logprobs = logprobs
        self.reasoning = reasoning
        self.reasoning_tags = reasoning_tags
        self.max_reasoning_tokens = max_reasoning_tokens
        self.chat_template_kwargs = chat_template_kwargs

    def job_arguments(self) -> dict[str, Any]:
        return {
            "prompt_template": self.prompt_template,
            "prompt_column": self.prompt_column,
            "messages_column": self.messages_column,
            "system_prompt": self.system_prompt,
            "examples": self.examples,
            "chat": self.chat,
            "max_tokens": from_text(self.max_tokens, Whole(1)),
            "sampling": numbers_in(self.sampling, but=["stop"]),
            "output_schema": self.output_schema,
            "repair_prompt": self.repair_prompt,
            "image_columns": self.image_columns,
            "image_root": self.image_root,
            "mmproj": self.mmproj,
            "lora": lora_from_text(self.lora),
            "n": from_text(self.n, Whole(1)),
            "logprobs": self.logprobs,
            "reasoning": self.reasoning,
            "reasoning_tags": self.reasoning_tags,
            "max_reasoning_tokens": from_text(self.max_reasoning_tokens, OrNone(Whole(1))),
            "chat_template_kwargs": self.chat_template_kwargs,
        }

    def make_job(self, arguments: Mapping[str, Any]) -> Any:
        from airflow_mullama.jobs.generate import GenerateJob

        return GenerateJob(**arguments)
