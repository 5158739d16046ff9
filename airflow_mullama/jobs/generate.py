"""The job that adds a column of generated text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa

from airflow_mullama.arguments import OneOf, OrNone, Whole, require
from airflow_mullama.engines.reasoning import MODES, Mode
from airflow_mullama.engines.reasoning_switch import OFF_SWITCHES, TEMPLATE_VARIABLES
from airflow_mullama.engines.sampling import Sampling
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.jobs.conversations import ConversationTemplate, Example, checked_examples, example_messages
from airflow_mullama.jobs.job import Job
from airflow_mullama.jobs.pictures import PictureTemplate, checked_image_columns
from airflow_mullama.jobs.prompts import PromptTemplate, RequestTemplate, template_or_column
from airflow_mullama.jobs.text_files import text_of
from airflow_mullama.models.adapters import checked_lora
from airflow_mullama.rows import REASONING, REASONING_TOKENS, ROW_COLUMN, ResultColumns, generation_columns
from airflow_mullama.schemas import OutputSchema, Violation, load_output_schema, parse_answer
from airflow_mullama.schemas.sources import read_json_file
from airflow_mullama.storage.addresses import refuse_credentials

MOST_ANSWERS = 128


@dataclass(frozen=True, kw_only=True)
class GenerateJob(Job):
    """Add a column of generated text.

    Args:
        prompt_template: text with ``{column}`` placeholders, or the file that holds it
            (:func:`airflow_mullama.jobs.text_files.names_a_text_file`).
        prompt_column: instead of a template, the column that holds the prompt.
        messages_column: instead of both, the column that holds a conversation, as a list of ``{role, content}`` or as
            JSON text of one.
        system_prompt: text that is sent before each row's prompt, with ``{column}`` placeholders, or the file that
            holds it.
        examples: pairs of an input and its answer that are put before each row, as a conversation that went well; the
            input stands where the row's text stands (a dictionary by column where the prompt has several), an answer
            that is no text becomes JSON. Or the path of a JSON file of them.
        chat: use the model's chat template; ``None``: if it carries one.
        max_tokens: most tokens of one answer.
        sampling: see :class:`airflow_mullama.engines.sampling.Sampling`.
        output_schema: what an answer must look like, so that it becomes typed columns: a JSON Schema (a dictionary, or
            the path of a file), a Pydantic model class or a :class:`pyarrow.Schema`.
        image_columns: columns whose values are pictures (PNG, JPEG, WebP) or the paths of their files, or lists of
            them; they stand before the text of each row's own, last message.
        image_root: the folder, or URL of one, that those paths begin at and may not leave; ``None``: the input's.
        mmproj: the projector that brings pictures to the model, with the engine ``llamacpp``; as for ``model``.
        lora: adapters that change the model, each a dictionary with ``path`` (as for ``model``) and ``scale`` (1.0).
        n: answers to each row, all in the column ``responses``; it needs a temperature.
        logprobs: also say how likely an answer's tokens were: their mean and least log-probability.
        repair_prompt: tell the model what was wrong when it is asked again because of an answer that breaks the schema.
        reasoning: what becomes of what a model thinks before it answers: ``separate`` (the columns ``reasoning`` and
            ``reasoning_tokens``), ``discard``, or ``off``: it is told not to think.
        reasoning_tags: what its thoughts stand between, where its chat template does not tell.
        max_reasoning_tokens: most tokens of its thoughts, apart from ``max_tokens``; when they are spent, the answer is
            asked for.
        chat_template_kwargs: further variables of the chat template, such as ``{"reasoning_effort": "high"}``.
    """

    prompt_template: str | os.PathLike[str] | None = None
    prompt_column: str | None = None
    messages_column: str | None = None
    system_prompt: str | os.PathLike[str] | None = None
    examples: Sequence[tuple[Any, Any]] | str | os.PathLike[str] | None = None
    chat: bool | None = None
    max_tokens: int = 256
    sampling: Mapping[str, Any] | Sampling | None = None
    output_schema: Any = None
    repair_prompt: bool = False
    image_columns: Sequence[str] | None = None
    image_root: str | os.PathLike[str] | None = None
    mmproj: str | None = None
    lora: Sequence[Mapping[str, Any]] | None = None
    n: int = 1
    logprobs: bool = False
    reasoning: Mode = "separate"
    reasoning_tags: tuple[str, str] | None = None
    max_reasoning_tokens: int | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None

    task: ClassVar[Literal["generate", "embed"]] = "generate"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompt_template", "system_prompt"):
            object.__setattr__(self, name, text_of(name, getattr(self, name)))
        if self.system_prompt is not None and not isinstance(self.system_prompt, str):
            raise ConfigurationError(f"system_prompt is {self.system_prompt!r}; it must be a text or None.")
        _ = self._text_template
        require("max_tokens", self.most_tokens, Whole(1, 1_000_000))
        if self.chat is not None and not isinstance(self.chat, bool):
            raise ConfigurationError(f"chat is {self.chat!r}; it must be True, False or None.")
        sampling = self.sampling if isinstance(self.sampling, Sampling) else Sampling.from_mapping(self.sampling)
        object.__setattr__(self, "sampling", sampling)
        self._check_reasoning()
        if self.chat_template_kwargs is not None:
            object.__setattr__(self, "chat_template_kwargs", self._checked_template_kwargs())
        if self.output_schema is not None:
            object.__setattr__(self, "output_schema", self._checked_schema())
        elif self.repair_prompt:
            raise ConfigurationError("repair_prompt=True needs an output_schema that an answer can break.")
        self._check_pictures()
        if self.lora is not None:
            object.__setattr__(self, "lora", self._checked_lora())
        self._check_answers()
        if self.examples is not None:
            object.__setattr__(self, "examples", self._checked_examples())
            self._refuse_examples_that_break_the_schema()
        self._refuse_messages_without_chat()

    def _check_answers(self) -> None:
        require("n", self.n, Whole(1, MOST_ANSWERS))
        require("logprobs", self.logprobs, OneOf((True, False)))
        assert isinstance(self.sampling, Sampling)
        if self.n > 1 and self.sampling.temperature == 0:
            raise ConfigurationError(
                f"n is {self.n}, and at temperature 0 all answers to a row are the same; set sampling={{'temperature': "
                "0.8}, or leave n out."
            )
        if self.n > 1 and self.output_schema is not None:
            raise ConfigurationError(
                f"n is {self.n}, and with an output_schema each row has one answer, whose fields are its columns; "
                "leave one of the two out."
            )
        if self.logprobs and not self.engine_spec.tells_logprobs:
            raise ConfigurationError(
                f"logprobs=True, and the engine {self.engine_spec.name!r} does not say how likely tokens are; leave it "
                "out, or use the engine 'llamacpp' or 'openai'."
            )

    def _check_pictures(self) -> None:
        spec = self.engine_spec
        if self.image_columns is None:
            for name in ("image_root", "mmproj"):
                if getattr(self, name) is not None:
                    raise ConfigurationError(f"{name} is for pictures, and there are no image_columns; give both.")
            return
        object.__setattr__(self, "image_columns", checked_image_columns(self.image_columns))
        if not spec.takes_pictures:
            raise ConfigurationError(
                f"image_columns is given, and the engine {spec.name!r} takes no pictures; use the engine 'llamacpp' "
                "with mmproj=, or 'openai'."
            )
        if spec.needs_projector and self.mmproj is None:
            raise ConfigurationError(
                f"image_columns is given without mmproj: with the engine {spec.name!r} a projector brings pictures to "
                "the model; name its GGUF file, which is published beside the model's (mmproj-….gguf)."
            )
        if self.mmproj is not None and not spec.needs_projector:
            raise ConfigurationError(
                f"mmproj is {self.mmproj!r}, and with the engine {spec.name!r} the projector is the server's: start it "
                "with that, and leave mmproj out."
            )
        for name, words in (("mmproj", "The projector"), ("image_root", "image_root")):
            if (given := getattr(self, name)) is not None:
                if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
                    raise ConfigurationError(f"{name} is {given!r}; it must be a path or a URL.")
                refuse_credentials(os.fspath(given), words)
                object.__setattr__(self, name, os.fspath(given))

    @property
    def projector(self) -> str | None:
        return self.mmproj

    @property
    def picture_root(self) -> str | None:
        return None if self.image_root is None else os.fspath(self.image_root)

    def _checked_lora(self) -> tuple[dict[str, Any], ...]:
        if not self.engine_spec.takes_adapters:
            raise ConfigurationError(
                f"lora is given, and the engine {self.engine_spec.name!r} takes no adapters from here; use the engine "
                "'llamacpp', or merge the adapter into the model (with 'openai', start the server with it)."
            )
        return checked_lora(self.lora)

    @property
    def adapters(self) -> Sequence[Mapping[str, Any]]:
        return self.lora or ()

    def _checked_examples(self) -> tuple[Example, ...]:
        given = self.examples
        if isinstance(given, (str, os.PathLike)):
            given = read_json_file("examples", given)
        return checked_examples(given)

    def _refuse_examples_that_break_the_schema(self) -> None:
        for place, (_, answer) in enumerate(self._example_messages):
            read = parse_answer(answer, self.schema) if self.schema is not None else None
            if isinstance(read, Violation):
                raise ConfigurationError(
                    f"examples[{place}] answers {answer!r}, which breaks output_schema: {read.row_error.message}."
                )

    def _refuse_messages_without_chat(self) -> None:
        for name in ("messages_column", "examples"):
            if self.chat is False and getattr(self, name) is not None:
                raise ConfigurationError(
                    f"{name} is given and chat=False: only a chat template can put several messages to a model; leave "
                    "one of the two out."
                )

    def _check_reasoning(self) -> None:
        require("reasoning", self.reasoning, OneOf(MODES))
        require("max_reasoning_tokens", self.max_reasoning_tokens, OrNone(Whole(1, 1_000_000)))
        if self.max_reasoning_tokens is not None and self.reasoning == "off":
            raise ConfigurationError(
                "max_reasoning_tokens is for a model that may think, and reasoning='off' forbids it; leave one of them "
                "out."
            )
        tags = self.reasoning_tags
        if tags is not None:
            pair = tuple(tags) if isinstance(tags, (list, tuple)) else ()
            if len(pair) != 2 or not all(isinstance(tag, str) and tag.strip() for tag in pair) or pair[0] == pair[1]:
                raise ConfigurationError(
                    f"reasoning_tags is {tags!r}; it must be two different texts, such as ('<think>', '</think>')."
                )
            object.__setattr__(self, "reasoning_tags", pair)

    def _checked_template_kwargs(self) -> Mapping[str, Any]:
        given = self.chat_template_kwargs
        if not isinstance(given, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in given):
            raise ConfigurationError(
                f"chat_template_kwargs is {given!r}; it must be a dictionary of the template's variables, such as "
                "{'reasoning_effort': 'high'}."
            )
        if taken := sorted(TEMPLATE_VARIABLES & given.keys()):
            raise ConfigurationError(
                f"chat_template_kwargs has {', '.join(map(repr, taken))}, which the engine gives the template itself; "
                "leave it out."
            )
        try:
            kwargs: dict[str, Any] = json.loads(json.dumps(dict(given), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"chat_template_kwargs is {given!r}; its values must be what JSON can say ({error})."
            ) from error
        if self.chat is False:
            raise ConfigurationError("chat_template_kwargs is for the chat template, which chat=False does not use.")
        switched_on = [name for name in OFF_SWITCHES if kwargs.get(name) is True]
        if self.reasoning == "off" and switched_on:
            raise ConfigurationError(
                f"reasoning='off' and chat_template_kwargs={{{switched_on[0]!r}: True}} contradict each other; leave "
                "one of them out."
            )
        return kwargs

    def _checked_schema(self) -> OutputSchema:
        schema = load_output_schema(self.output_schema)
        columns = generation_columns(logprobs=self.logprobs, reasoning=self._keeps_reasoning)
        names = {field.name for field in columns.fields}
        clash = [field.name for field in schema.fields if field.name in names]
        if clash:
            without = " or set reasoning='discard'" if {*clash} <= {REASONING, REASONING_TOKENS} else ""
            raise ConfigurationError(
                f"output_schema has the field(s) {', '.join(map(repr, clash))}, which the output has already; give "
                f"them other names{without}."
            )
        if any(field.name == ROW_COLUMN for field in schema.fields):
            raise ConfigurationError(
                f"output_schema has the field {ROW_COLUMN!r}, which stands for a row's number while it is staged; "
                "give it another name."
            )
        return schema

    @property
    def prompt(self) -> PromptTemplate | None:
        """What renders the user's message; ``None`` where the messages stand in a column."""
        if self.messages_column is None:
            return template_or_column("prompt_template", self.prompt_template, "prompt_column", self.prompt_column)
        if self.prompt_template is not None or self.prompt_column is not None:
            raise ConfigurationError(
                "Give prompt_template, prompt_column or messages_column, exactly one of the three."
            )
        return None

    @property
    def template(self) -> RequestTemplate:
        if self.image_columns is None:
            return self._text_template
        return PictureTemplate(self._text_template, tuple(self.image_columns), self.picture_root)

    @property
    def _text_template(self) -> PromptTemplate | ConversationTemplate:
        prompt, system = self.prompt, self._system_template
        if prompt is not None and (system is None or not system.columns):
            return prompt
        by_row = system if system is not None and system.columns else None
        return ConversationTemplate(by_row, prompt, self.messages_column, takes_system=system is None)

    @property
    def _system_template(self) -> PromptTemplate | None:
        return PromptTemplate.parse(self.system_prompt) if self.system_prompt else None

    @property
    def _example_messages(self) -> list[tuple[str, str]]:
        return example_messages(self._examples, self.prompt, typed=self.schema is not None)

    @property
    def _examples(self) -> tuple[Example, ...]:
        """As they were given, checked."""
        assert self.examples is None or isinstance(self.examples, tuple)
        return self.examples or ()

    @property
    def most_tokens(self) -> int:
        """How many tokens an answer may have."""
        return self.max_tokens

    def engine_settings(self) -> dict[str, Any]:
        assert isinstance(self.sampling, Sampling)
        schema, system = self.schema, self._system_template
        by_row = isinstance(self._text_template, ConversationTemplate)
        return {
            # One that differs by row is part of the requests.
            "system_prompt": None if system is None or system.columns else system.literals[0],
            "chat": self.chat,
            "max_tokens": self.most_tokens,
            "sampling": {**vars(self.sampling), "stop": list(self.sampling.stop)},
            **({"examples": [list(pair) for pair in self._example_messages]} if self.examples else {}),
            **({"conversations": "any" if self.messages_column else "system"} if by_row else {}),
            **({"pictures": True} if self.image_columns else {}),
            **({"n": self.n} if self.n > 1 else {}),
            **({"logprobs": True} if self.logprobs else {}),
            "reasoning": {
                "mode": self.reasoning,
                "tags": None if self.reasoning_tags is None else list(self.reasoning_tags),
                "max_tokens": self.max_reasoning_tokens,
            },
            **({"chat_template_kwargs": dict(kwargs)} if (kwargs := self.chat_template_kwargs) else {}),
            # Absent without a schema, so that fingerprints of jobs without one do not depend on this.
            **({} if schema is None else {"output_schema": schema.to_json(), "repair_prompt": self.repair_prompt}),
        }

    @property
    def schema(self) -> OutputSchema | None:
        """The output schema, loaded."""
        assert self.output_schema is None or isinstance(self.output_schema, OutputSchema)
        return self.output_schema

    def result_columns(self, dimensions: int | None) -> ResultColumns:
        return generation_columns(
            self._typed_fields, several=self.n > 1, logprobs=self.logprobs, reasoning=self._keeps_reasoning
        )

    @property
    def _keeps_reasoning(self) -> bool:
        return self.reasoning == "separate"

    @property
    def _typed_fields(self) -> tuple[pa.Field, ...]:
        return tuple(self.schema.fields) if self.schema else ()

    @property
    def added_column_names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.result_columns(None).fields)
