"""Conversations that differ by row, in a model's chat template: of any number of messages, none of which can forge
another's borders.

The template is rendered once for each sequence of roles, around markers that stand for the messages; what they say is
put in their places as data. White space at a message's ends is rendered with it, since a template may take it off.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Union

from airflow_mullama.engines.base import cut
from airflow_mullama.engines.prompt_tokens import Part
from airflow_mullama.errors import ModelLoadError

Render = Callable[[Sequence[dict[str, str]]], str]
"""A chat template, filled with messages, up to where the answer begins."""

Message = tuple[str, Sequence[Part]]
"""A role, and the text in parts."""

# What a template must pass on as it is.
INNER = "a  b\n\n\tc \"d\" 'e' <f>&amp; \\n {{ g }} {% h %} é 漢 \N{RECEIPT}"
MOST_KNOWN_SHAPES, LONGEST_KNOWN_WHITE_SPACE = 1024, 64


@dataclass(frozen=True)
class _Shape:
    """What a template is shown of a message.

    Args:
        role: of the message.
        before, after: white space around its text.
        blank: whether it has no other text.
    """

    role: str
    before: str
    after: str
    blank: bool

    @classmethod
    def of(cls, role: str, text: str) -> _Shape:
        if not text.strip():
            return cls(role, text, "", True)
        return cls(role, text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :], False)

    def content(self, marker: str) -> str:
        return self.before if self.blank else f"{self.before}{marker}{self.after}"


Piece = Union[str, int]  # noqa: UP007 - a runtime value
"""A text of the template, or the number of the message that stands there."""


class ConversationPrompts:
    """Puts a row's messages into the template.

    Args:
        render: the template.
        system_prompt: the job's, before the row's messages.
        examples: pairs of a question and its answer, behind the system prompt.
    """

    def __init__(self, render: Render, system_prompt: str | None, examples: Sequence[Sequence[str]]) -> None:
        self._render = render
        self._before = system_messages(system_prompt)
        self._examples = example_messages(examples)
        self._known: OrderedDict[tuple[_Shape, ...], list[Piece]] = OrderedDict()

    def prompt(self, messages: Sequence[Message]) -> list[Part]:
        """The whole prompt of a conversation, in parts.

        Raises:
            ModelLoadError: the template takes no such conversation; says why.
        """
        texts = ["".join(text for text, _ in parts) for _, parts in messages]
        shapes = tuple(_Shape.of(role, text) for (role, _), text in zip(messages, texts, strict=True))
        prompt: list[Part] = []
        for piece in self._pieces(shapes):
            if isinstance(piece, str):
                prompt.append((piece, True))
            else:
                shape, (_, parts) = shapes[piece], messages[piece]
                prompt += cut(parts, len(shape.before), len(texts[piece]) - len(shape.after))
        return prompt

    def require_system_messages(self) -> None:
        """Find out before the first row whether the template takes a system message of a row.

        Raises:
            ModelLoadError: it does not; says why.
        """
        try:
            self.prompt([("system", [("a", False)]), ("user", [("b", False)])])
        except ModelLoadError as error:
            raise ModelLoadError(
                f"system_prompt has placeholders, and {error}: write what it says into prompt_template instead."
            ) from error

    def _pieces(self, shapes: tuple[_Shape, ...]) -> list[Piece]:
        pieces = self._known.get(shapes)
        if pieces is None:
            pieces = self._split(shapes)
            if sum(len(shape.before) + len(shape.after) for shape in shapes) <= LONGEST_KNOWN_WHITE_SPACE:
                self._known[shapes] = pieces
        else:
            self._known.move_to_end(shapes)
        if len(self._known) > MOST_KNOWN_SHAPES:
            self._known.popitem(last=False)
        return pieces

    def _split(self, shapes: Sequence[_Shape]) -> list[Piece]:
        markers = ["mullama" + secrets.token_hex(12) for _ in shapes]
        prompt = self._rendered(shapes, markers)
        places = []
        for number, (shape, marker) in enumerate(zip(shapes, markers, strict=True)):
            if not shape.blank:
                if prompt.count(marker) != 1:
                    raise ModelLoadError(
                        f"the model's chat template {'leaves out' if marker not in prompt else 'repeats'} the message "
                        f"{number + 1} of {len(shapes)} ({shape.role})"
                    )
                places.append((prompt.index(marker), number))
        doubled = [f"{marker}{INNER}{marker}" for marker in markers]
        whole = self._rendered(shapes, doubled)
        if any(text not in whole for shape, text in zip(shapes, doubled, strict=True) if not shape.blank):
            raise ModelLoadError("the model's chat template does not pass a message on as it is")
        pieces: list[Piece] = []
        at = 0
        for place, number in sorted(places):  # some templates put the system prompt before the last message
            pieces += [prompt[at:place], number]
            at = place + len(markers[number])
        return [*pieces, prompt[at:]]

    def _rendered(self, shapes: Sequence[_Shape], markers: Sequence[str]) -> str:
        own = [
            {"role": shape.role, "content": shape.content(marker)}
            for shape, marker in zip(shapes, markers, strict=True)
        ]
        systems = next((number for number, shape in enumerate(shapes) if shape.role != "system"), len(shapes))
        try:
            return self._render([*self._before, *own[:systems], *self._examples, *own[systems:]])
        except ModelLoadError as error:
            roles = ", ".join(shape.role for shape in shapes)
            raise ModelLoadError(f"the model's chat template takes no conversation of {roles}: {error}") from error


def system_messages(system_prompt: str | None) -> list[dict[str, str]]:
    """A job's system prompt as a message, if it has one."""
    return [{"role": "system", "content": system_prompt}] if system_prompt else []


def example_messages(examples: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """A job's examples as messages."""
    return [
        {"role": role, "content": text}
        for example in examples
        for role, text in zip(("user", "assistant"), example, strict=True)
    ]
