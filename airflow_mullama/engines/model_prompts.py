"""How one job's prompts are put to one model: in its chat template or not, thinking or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_mullama.engines.prompt_frames import Frame, generation_frame
from airflow_mullama.engines.prompt_tokens import NO_ARGUMENTS, PromptTokenizer
from airflow_mullama.engines.reasoning import Reasoning, ReasoningTags, recognise_tags
from airflow_mullama.engines.reasoning_switch import ENABLE_THINKING, find_off_switch
from airflow_mullama.models.gguf_header import GgufHeader

TRIAL_MESSAGES = ({"role": "user", "content": "Hello."},)


@dataclass(frozen=True)
class ModelPrompt:
    """What stands around a row's text, and where the model's answer begins.

    Args:
        frame: around the text.
        chat: whether it is the model's chat template.
        tags: of the model's reasoning; ``None`` if it has none.
        begins_inside: whether the prompt opens the block.
        may_think: whether the model was given the chance.
        notes: for the task's log.
    """

    frame: Frame
    chat: bool
    tags: ReasoningTags | None = None
    begins_inside: bool = False
    may_think: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WithArguments:
    """A tokenizer whose chat template has further variables.

    Args:
        tokenizer: the engine's.
        arguments: the variables.
        ending: what the answer goes on from, behind what the template renders.
    """

    tokenizer: PromptTokenizer
    arguments: Mapping[str, Any]
    ending: str = ""

    def tokenize(self, content: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """The engine's."""
        return self.tokenizer.tokenize(content, add_special=add_special, parse_special=parse_special)

    def tokenize_each(self, texts: Sequence[str]) -> list[list[int]]:
        """The engine's."""
        return self.tokenizer.tokenize_each(texts)

    def render_chat(self, messages: Sequence[dict[str, str]], arguments: Mapping[str, Any] = NO_ARGUMENTS) -> str:
        """The template with the variables, and the ending."""
        return self.tokenizer.render_chat(messages, {**arguments, **self.arguments}) + self.ending


def model_prompt(tokenizer: PromptTokenizer, header: GgufHeader, settings: Mapping[str, Any]) -> ModelPrompt:
    """Find out by rendering.

    Args:
        tokenizer: the engine's.
        header: the model's.
        settings: of a generation.

    Raises:
        ModelLoadError: the chat template does not render, or does not pass on what it is given.
    """
    chosen = settings.get("chat")
    chat = header.chat_template is not None if chosen is None else bool(chosen)
    reasoning = Reasoning.of(settings)
    tags = reasoning.tags or recognise_tags(header.chat_template)
    if not chat:
        return ModelPrompt(generation_frame(tokenizer, header, settings, chat=False), chat, tags)
    arguments = dict(settings.get("chat_template_kwargs") or {})
    ending, notes = "", []
    if reasoning.wanted and ENABLE_THINKING in (header.chat_template or ""):
        # llama.cpp gives every template this variable, and those that it does not recognise are told not to think.
        arguments = {ENABLE_THINKING: True, **arguments}
    if not reasoning.wanted:

        def render(further: Mapping[str, Any]) -> str:
            return tokenizer.render_chat(TRIAL_MESSAGES, {**further, **arguments})

        switch = find_off_switch(header.chat_template, tags, render)
        arguments, ending = {**switch.arguments, **arguments}, switch.ending
        notes = [switch.note] if switch.note else []
    frame = generation_frame(WithArguments(tokenizer, arguments, ending), header, settings, chat=True)
    return ModelPrompt(
        frame,
        chat,
        tags,
        begins_inside=reasoning.wanted and tags is not None and tags.opened_by(frame.after),
        may_think=reasoning.wanted and tags is not None,
        notes=tuple(notes),
    )
