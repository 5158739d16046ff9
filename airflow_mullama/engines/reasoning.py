"""Telling what a model reasons from what it answers.

Models that think write a block before the answer, between two tags that their chat template and vocabulary know.
llama.cpp has a parser for it, but only behind its chat route, which renders prompts by itself and takes markers in a
row's text for what they say; so the tags are recognised here, the same for every engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from airflow_mullama.engines.base import Generation, NoAnswer
from airflow_mullama.rows import ErrorType, RowError

Mode = Literal["separate", "discard", "off"]
MODES: tuple[Mode, ...] = ("separate", "discard", "off")


@dataclass(frozen=True)
class ReasoningTags:
    """What stands around a model's reasoning.

    Args:
        opens, closes: the tags.
        closing: what is written to close a block for the model.
        empty: a whole block without a thought.
        between: what the model writes between its own closing tag and the answer.
        trailing: what may stand at the end of a thought and is part of the tag.
        around_answer: what may stand around the answer.
    """

    opens: str
    closes: str
    closing: str
    empty: str
    between: str = ""
    trailing: tuple[str, ...] = ()
    around_answer: tuple[str, str] | None = None

    @classmethod
    def in_lines(cls, opens: str, closes: str, around_answer: tuple[str, str] | None = None) -> ReasoningTags:
        """Tags in lines of their own, an empty one before the answer, as Qwen3 and DeepSeek-R1 write them."""
        between = "\n\n" + (around_answer[0] if around_answer else "")
        return cls(
            opens,
            closes,
            closing=f"\n{closes}{between}",
            empty=f"{opens}\n\n{closes}{between}",
            between=between,
            around_answer=around_answer,
        )

    @classmethod
    def in_text(cls, opens: str, closes: str, around_answer: tuple[str, str] | None = None) -> ReasoningTags:
        """Tags without anything around them."""
        between = around_answer[0] if around_answer else ""
        return cls(opens, closes, closes + between, opens + closes + between, between, around_answer=around_answer)

    def may_open(self, text: str) -> bool | None:
        """Whether an answer that begins so is reasoning; ``None`` while that cannot be said."""
        begun = text.lstrip()
        for tag in (self.opens, self.closes):
            if begun.startswith(tag):
                return True
            if tag.startswith(begun):
                return None
        return False

    def opened_by(self, prompt: str) -> bool:
        """Whether a prompt ends with an open block, so that the answer begins inside it."""
        return prompt.rstrip().endswith(self.opens.rstrip())


# gpt-oss answers in messages to channels: whatever comes before the one to the channel "final" is no answer.
HARMONY = ReasoningTags(
    "<|channel|>analysis<|message|>",
    "<|channel|>final<|message|>",
    closing="<|end|><|start|>assistant<|channel|>final<|message|>",
    empty="<|channel|>final<|message|>",
    trailing=("assistant", "<|start|>", "<|end|>"),
)
THINK = ReasoningTags.in_lines("<think>", "</think>")
# The first that a template knows; so those that have more to tell them come first.
KNOWN: Sequence[ReasoningTags] = (
    HARMONY,
    ReasoningTags.in_lines("<think>", "</think>", ("<response>", "</response>")),  # Granite 3.3
    ReasoningTags.in_text("<|START_THINKING|>", "<|END_THINKING|>", ("<|START_RESPONSE|>", "<|END_RESPONSE|>")),
    THINK,  # Qwen3, DeepSeek-R1, GLM 4.5, SmolLM3, Nemotron, MiniMax, Phi-4 reasoning, ...
    ReasoningTags.in_text("[THINK]", "[/THINK]"),  # Mistral
    ReasoningTags.in_lines("<seed:think>", "</seed:think>"),
    ReasoningTags.in_lines("<thought>", "</thought>"),  # EXAONE Deep
    ReasoningTags.in_lines("<reasoning>", "</reasoning>"),  # Reka
    ReasoningTags.in_text("<|channel>thought\n", "<channel|>"),  # Gemma 4
    ReasoningTags.in_text("◁think▷", "◁/think▷"),  # Kimi
    ReasoningTags.in_lines("Here is my thought process:", "Here is my response:"),  # Granite 3.2
)


def recognise_tags(template: str | None) -> ReasoningTags | None:
    """The tags that a chat template knows; ``None`` for a model that does not reason.

    A template that never opens a block may still take it out of earlier answers, so either tag is enough, and all that
    stands around an answer.
    """
    for tags in KNOWN:
        marks = [tags.closes, *(tags.around_answer or ())]
        opens = tags.around_answer is None and tags.opens in (template or "")
        if template and (opens or all(mark in template for mark in marks)):
            return tags
    return None


@dataclass(frozen=True)
class Reasoning:
    """What a job wants of its model's reasoning.

    Args:
        mode: ``separate`` (a column of its own), ``discard`` (it reasons, and only the answer is kept) or ``off``.
        tags: given by the user; ``None``: those that the model is known to write.
        max_tokens: most tokens of a block, after which it is closed and the answer asked for.
    """

    mode: Mode
    tags: ReasoningTags | None = None
    max_tokens: int | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Reasoning:
        """Of a job's settings."""
        recorded = settings.get("reasoning") or {"mode": "off"}
        given = recorded.get("tags")
        return cls(recorded["mode"], ReasoningTags.in_lines(*given) if given else None, recorded.get("max_tokens"))

    @property
    def wanted(self) -> bool:
        """Whether the model may reason."""
        return self.mode != "off"


@dataclass(frozen=True)
class Thought:
    """A text in its two parts.

    Args:
        reasoning: what is in the block; ``None`` without one.
        answer: what comes after it; ``None`` if the block is not closed.
        length: characters of the text up to where the answer begins.
    """

    reasoning: str | None
    answer: str | None
    length: int = 0


def split_reasoning(text: str, tags: ReasoningTags | None, *, inside: bool = False) -> Thought:
    """Take the reasoning out of what a model wrote.

    Args:
        text: all of it.
        tags: around its reasoning; ``None`` for a model that has none.
        inside: whether the prompt opened the block.
    """
    if tags is None:
        return Thought(None, text)
    begun = text.lstrip()
    half_open = len(begun) > 1 and tags.opens.startswith(begun)  # it was cut in its very first words
    opened = begun.startswith(tags.opens) or half_open
    # A model whose template opens no block may also leave out the tag and write the other one.
    close = text.find(tags.closes, text.find(tags.opens) + len(tags.opens) if opened else 0)
    if not opened and not inside and (close < 0 or tags.opens in text[:close]):
        return Thought(None, text)
    block = text[: close if close >= 0 else len(text)]
    reasoning = block.lstrip()[len(tags.opens) if opened else 0 :].strip()
    for mark in tags.trailing:
        reasoning = reasoning.removesuffix(mark).rstrip()
    if close < 0:
        return Thought(_without_half_a_tag(reasoning, tags) or None, None, len(text))
    end = close + len(tags.closes)
    return Thought(reasoning or None, bare_answer(text[end:], tags), end)


def split_pieces(
    pieces: Sequence[str], tags: ReasoningTags | None, *, inside: bool = False
) -> tuple[Thought, list[str], int]:
    """The same of a text that comes token by token.

    Returns:
        Also the pieces from where the answer begins, and how many tokens came before.
    """
    thought = split_reasoning("".join(pieces), tags, inside=inside)
    count = length = 0
    while length < thought.length:
        length += len(pieces[count])
        count += 1
    rest = list(pieces[count:])
    if length > thought.length:  # one of them holds the border
        rest[:1] = [pieces[count - 1][thought.length - length :] + "".join(rest[:1])]
    return thought, rest, count


def _without_half_a_tag(reasoning: str, tags: ReasoningTags) -> str:
    """A block that was cut in the middle of its closing tag."""
    for length in range(len(tags.closes) - 1, 1, -1):
        if reasoning.endswith(tags.closes[:length]):
            return reasoning[:-length].rstrip()
    return reasoning


def bare_answer(answer: str, tags: ReasoningTags) -> str:
    """The answer behind a block without what the model puts around it."""
    answer = answer.lstrip()
    if tags.around_answer is not None:
        opens, closes = tags.around_answer
        if answer.startswith(opens):
            answer = answer.removeprefix(opens).lstrip()
            answer = answer.rstrip().removesuffix(closes).rstrip() if closes in answer else answer
    return answer


# What a server that splits nothing itself is likely to send, where nobody knows the model's template: a block at the
# very beginning, or one whose first tag stands in the prompt and whose second one stands in a line of its own.
_CLOSED_IN_A_LINE = re.compile(r"(?:^|\n)[ \t]*(?:</think>|\[/THINK\])[ \t]*(?:\n|$)")


def guess_tags(text: str) -> ReasoningTags | None:
    """Tags by what a model wrote, for want of its template."""
    begun = text.lstrip()
    for tags in KNOWN:
        if tags.around_answer is None and begun.startswith(tags.opens):
            return tags
    found = _CLOSED_IN_A_LINE.search(text)
    if found is None:
        return None
    return next(tags for tags in KNOWN if tags.around_answer is None and tags.closes in found.group())


def without_answer(generation: Generation, *, cut: bool, remedy: str) -> NoAnswer:
    """The outcome of a row whose model was still reasoning when it ended.

    Args:
        generation: what it wrote, with its reasoning.
        cut: whether it was cut; otherwise it ended by itself.
        remedy: against being cut.
    """
    tokens = generation.completion_tokens
    after = "" if tokens is None else f" after {tokens} tokens"
    if cut:
        message = f"the model was cut{after} while it still reasoned: {remedy}"
    else:
        message = f"the model ended{after} while it still reasoned, and gave no answer"
    return NoAnswer(generation, RowError(ErrorType.NO_ANSWER, message))
