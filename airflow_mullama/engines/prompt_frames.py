"""What a model's chat template puts around a row's message, found out once for all rows.

The template is rendered around a marker that stands for the message; per row only the message is tokenized, and put
there. llama.cpp's own chat route would parse ``<|im_end|>`` in a message as the end of the message, and let a message
choose among the template's branches. What a template does to a message's white space is found out as well.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_mullama.engines.base import Request, cut
from airflow_mullama.engines.conversation_prompts import (
    INNER,
    ConversationPrompts,
    Message,
    example_messages,
    system_messages,
)
from airflow_mullama.engines.prompt_tokens import Part, PromptTokenizer, PromptTokens, SpecialTokens, guarded_texts
from airflow_mullama.engines.second_try import messages_to_ask, parts_to_ask
from airflow_mullama.errors import ModelLoadError
from airflow_mullama.models.gguf_header import GgufHeader

# Whatever is white space to Python's str.strip, as Jinja's trim uses it; llama.cpp's own Jinja may take off less.
WHITE_SPACE = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())

# Between a system prompt and a row's text, for a model without chat template.
GAP: Part = ("\n\n", True)


@dataclass(frozen=True)
class Frame:
    """What stands around a row's text.

    Args:
        head, tail: token ids around everything.
        before, after: the author's and the template's text around the row's.
        strips_left, strips_right: characters that are taken off the text's ends.
        render_blank: the whole prompt of a text of white space alone, which a template may treat in a way of its own.
        conversations: puts messages that differ by row into the template; ``None`` without one.
    """

    head: list[int]
    tail: list[int]
    before: str = ""
    after: str = ""
    strips_left: str = ""
    strips_right: str = ""
    render_blank: Callable[[str], str] | None = None
    conversations: ConversationPrompts | None = None

    def ask(self, request: Request, *, repair_prompt: bool, pictures: str = "") -> list[Part]:
        """The whole prompt of a request, which says what was wrong with the last answer if the model is to be told.

        Args:
            request: of a row.
            repair_prompt: whether it is.
            pictures: what stands for its pictures, before the text of its last message.

        Raises:
            ModelLoadError: the template takes no such text, or no such conversation.
        """
        before: list[Part] = [(pictures, True)] if pictures else []
        if request.turns is None:
            return self.prompt([*before, *parts_to_ask(request, repair_prompt)])
        *others, (role, parts) = messages_to_ask(request, repair_prompt)
        return self.conversation([*others, (role, [*before, *parts])])

    def conversation(self, messages: Sequence[Message]) -> list[Part]:
        """A row's messages in their places; without a chat template one after the other."""
        if self.conversations is not None:
            return self.conversations.prompt(messages)
        return [part for number, (_, parts) in enumerate(messages) for part in ([] if not number else [GAP]) + [*parts]]

    def prompt(self, parts: Sequence[Part]) -> list[Part]:
        """A row's text in its place.

        Raises:
            ModelLoadError: the template takes no blank text.
        """
        text = "".join(part for part, _ in parts)
        if self.render_blank is not None and not text.strip():
            return [(self.render_blank(text), True)]
        left = len(text) - len(text.lstrip(self.strips_left)) if self.strips_left else 0
        right = len(text) - len(text.rstrip(self.strips_right)) if self.strips_right else 0
        return [(self.before, True), *cut(parts, left, len(text) - right), (self.after, True)]


def plain_frame(tokenizer: PromptTokenizer) -> Frame:
    """For texts to embed: the tokens that the model wants around a text."""
    special = SpecialTokens.of(tokenizer)
    return Frame(head=special.before, tail=special.after)


def completion_frame(tokenizer: PromptTokenizer, system_prompt: str | None) -> Frame:
    """For a model without chat template: the system prompt, an empty line, the row's text."""
    before = f"{system_prompt}{GAP[0]}" if system_prompt else ""
    return Frame(head=SpecialTokens.of(tokenizer).before, tail=[], before=before)


def generation_frame(
    tokenizer: PromptTokenizer, header: GgufHeader, settings: Mapping[str, Any], *, chat: bool
) -> Frame:
    """What stands around the rows' texts of a generation.

    Args:
        tokenizer: the engine's.
        header: the model's.
        settings: of the job.
        chat: whether the model's chat template is used.

    Raises:
        ModelLoadError: the template does not render, or does not pass on what it is given.
    """
    system_prompt = settings.get("system_prompt")
    if not chat:
        return completion_frame(tokenizer, system_prompt)
    system_by_row = settings.get("conversations") == "system"
    return chat_frame(tokenizer, header, system_prompt, settings.get("examples") or (), system_by_row=system_by_row)


def chat_frame(
    tokenizer: PromptTokenizer,
    header: GgufHeader,
    system_prompt: str | None,
    examples: Sequence[Sequence[str]] = (),
    *,
    system_by_row: bool = False,
) -> Frame:
    """Render the model's chat template around a marker and split it there.

    Args:
        tokenizer: the engine's.
        header: the model's.
        system_prompt: of the job.
        examples: of the job: pairs of a question and its answer.
        system_by_row: the rows bring a system prompt each.

    Raises:
        ModelLoadError: the template does not render, or does not pass a message on as it is.
    """
    template = _Template(tokenizer, system_prompt, examples)
    marker = "mullama" + secrets.token_hex(12)
    before, after = template.around(marker)
    template.check_inner(marker)
    left, right = template.stripped(marker, len(before), len(after))
    conversations = ConversationPrompts(tokenizer.render_chat, system_prompt, examples)
    if system_by_row:
        conversations.require_system_messages()
    begins = PromptTokens(tokenizer, header).of([[(before, True)]])[0]
    special = SpecialTokens.of(tokenizer).before
    return Frame(
        head=[] if special and begins[: len(special)] == special else special,
        tail=[],
        before=before,
        after=after,
        strips_left=left,
        strips_right=right,
        render_blank=template.render,
        conversations=conversations,
    )


class _Template:
    """The model's chat template with a system prompt and examples."""

    def __init__(
        self, tokenizer: PromptTokenizer, system_prompt: str | None, examples: Sequence[Sequence[str]]
    ) -> None:
        self._tokenizer = tokenizer
        self._system_prompt = system_prompt
        self._before = [*system_messages(system_prompt), *example_messages(examples)]

    def render(self, message: str) -> str:
        """The whole prompt of a message."""
        # A template without a system role is the engine's to handle: it puts the system prompt before the user's
        # message.
        prompt = self._tokenizer.render_chat([*self._before, {"role": "user", "content": message}])
        if self._system_prompt and self._system_prompt.strip() not in prompt:
            raise ModelLoadError(
                "The model's chat template drops the system prompt; put it at the front of prompt_template instead."
            )
        if any(message["content"].strip() not in prompt for message in self._before):
            raise ModelLoadError(
                "The model's chat template leaves out examples, or changes them; write them into prompt_template "
                "instead."
            )
        return prompt

    def around(self, marker: str) -> tuple[str, str]:
        """What the template puts before and after a message."""
        before, found, after = self.render(marker).partition(marker)
        if not found or marker in after:
            raise _not_passed_on()
        return before, after

    def check_inner(self, marker: str) -> None:
        """Refuse a template that changes what is inside of a message."""
        if f"{marker}{INNER}{marker}" not in self.render(f"{marker}{INNER}{marker}"):
            raise _not_passed_on()

    def stripped(self, marker: str, before: int, after: int) -> tuple[str, str]:
        """Characters of white space that the template takes off a message's left and right end.

        Args:
            marker: stands for a message.
            before, after: lengths of what the template puts around it.
        """
        left, right = "", ""
        for character in WHITE_SPACE:
            around = self.around_with(marker, character)
            if len(around[0]) == before:
                left += character
            elif not (len(around[0]) == before + 1 and around[0].endswith(character)):
                raise _not_passed_on()
            if len(around[1]) == after:
                right += character
            elif not (len(around[1]) == after + 1 and around[1].startswith(character)):
                raise _not_passed_on()
        return left, right

    def around_with(self, marker: str, character: str) -> tuple[str, str]:
        """What is before and after a marker that has a character on both sides."""
        before, _, after = self.render(f"{character}{marker}{character}").partition(marker)
        return before, after


def _not_passed_on() -> ModelLoadError:
    return ModelLoadError(
        "The model's chat template does not pass a message on as it is; set chat=False, or repair the template."
    )


def row_prompts(tokenizer: PromptTokenizer, header: GgufHeader, frame: Frame) -> PromptTokens:
    """What tokenizes the rows' prompts in a frame."""
    return PromptTokens(tokenizer, header, guarded_texts(tokenizer, header, [frame.before, frame.after]))
