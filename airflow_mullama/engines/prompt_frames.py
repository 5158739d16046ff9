"""Making token ids of prompts, so that what a row says can never become a control token.

The chat template is rendered once, around a marker that stands for the row's message. Per row only the message is
tokenized, as plain text, and put between the fixed tokens of what is before and after it. llama.cpp's own chat route
would parse ``<|im_end|>`` in a message as the end of the message. Every engine over llama.cpp's tokenizers uses this.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from airflow_mullama.errors import ModelLoadError
from airflow_mullama.models.gguf_header import GgufHeader


class PromptTokenizer(Protocol):
    """An engine's tokenizer and chat template."""

    def tokenize(self, content: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of a text, if asked with the model's own tokens around it, or with those that it spells."""
        ...

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The model's chat template, filled, up to where the answer begins; a system message may be moved into the
        user's. Raises ModelLoadError."""
        ...


@dataclass(frozen=True)
class SpecialTokens:
    """Tokens that the model wants around a whole text, such as BOS, or CLS and SEP."""

    before: list[int]
    after: list[int]

    @classmethod
    def of(cls, tokenizer: PromptTokenizer) -> SpecialTokens:
        """Find out by tokenizing a text with and without them."""
        plain = tokenizer.tokenize("a")
        whole = tokenizer.tokenize("a", add_special=True)
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return cls(whole[:start], whole[start + len(plain) :])
        return cls([], [])


@dataclass(frozen=True)
class Frame:
    """What stands around a row's text.

    Args:
        head, tail: fixed token ids.
        plain_before, plain_after: template text next to the row's text, tokenized with it, because tokens may span
            the border.
        strip: whether the template takes white space off the text's ends.
        guarded: texts that the tokenizer would turn into tokens of the template though they are plain text.
    """

    head: list[int]
    tail: list[int]
    plain_before: str = ""
    plain_after: str = ""
    strip: bool = False
    guarded: tuple[str, ...] = ()


def completion_frame(tokenizer: PromptTokenizer, system_prompt: str | None) -> Frame:
    """For a model without chat template: the system prompt, an empty line, the row's text."""
    before = f"{system_prompt}\n\n" if system_prompt else ""
    return Frame(head=SpecialTokens.of(tokenizer).before, tail=[], plain_before=before)


def chat_frame(tokenizer: PromptTokenizer, header: GgufHeader, system_prompt: str | None) -> Frame:
    """Render the model's chat template around a marker and split it there.

    Raises:
        ModelLoadError: the template does not render, or does not pass a message through.
    """
    marker = "mullama" + secrets.token_hex(12)
    prompt = _render(tokenizer, system_prompt, marker)
    before, found, after = prompt.partition(marker)
    if not found or marker in after:
        raise ModelLoadError(
            "The model's chat template does not pass a message through as it is; set chat=False, or repair the "
            "template."
        )
    special_texts = tuple(header.special_tokens.values())
    head_text, plain_before = _split_after_last_special(before, special_texts)
    plain_after, tail_text = _split_before_first_special(after, special_texts)
    special = SpecialTokens.of(tokenizer)
    head = tokenizer.tokenize(head_text, parse_special=True) if head_text else []
    if special.before and head[: len(special.before)] != special.before:
        head = special.before + head
    return Frame(
        head=head,
        tail=tokenizer.tokenize(tail_text, parse_special=True) if tail_text else [],
        plain_before=plain_before,
        plain_after=plain_after,
        strip=f" {marker} " not in _render(tokenizer, system_prompt, f" {marker} "),
        guarded=_guarded(header, prompt),
    )


def _guarded(header: GgufHeader, prompt: str) -> tuple[str, ...]:
    """Special tokens that a row's text must not be able to say.

    Those of this prompt, those of the template's other branches (other roles, the end of a turn), and those whose
    meaning the header declares, such as the end of the text. llama.cpp leaves control tokens alone in plain text, but
    not tokens that a model's makers declared as user-defined ones.
    """
    template = header.chat_template or ""
    declared = {value for key, value in header.metadata.items() if key.endswith("_token_id")}
    return tuple(
        token
        for token_id, token in header.special_tokens.items()
        if token in prompt or token in template or token_id in declared
    )


def _render(tokenizer: PromptTokenizer, system_prompt: str | None, message: str) -> str:
    # A template without a system role is the engine's to handle: it puts the system prompt before the user's message.
    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages.append({"role": "user", "content": message})
    prompt = tokenizer.render_chat(messages)
    if system_prompt and system_prompt.strip() not in prompt:
        raise ModelLoadError(
            "The model's chat template drops the system prompt; put it at the front of prompt_template instead."
        )
    return prompt


def _split_after_last_special(text: str, special_tokens: Sequence[str]) -> tuple[str, str]:
    ends = [text.rfind(token) + len(token) for token in special_tokens if token and token in text]
    end = max(ends, default=0)
    return text[:end], text[end:]


def _split_before_first_special(text: str, special_tokens: Sequence[str]) -> tuple[str, str]:
    starts = [text.find(token) for token in special_tokens if token and token in text]
    start = min(starts, default=len(text))
    return text[:start], text[start:]


def plain_pieces(text: str, guarded: Sequence[str]) -> str | list[str]:
    """Cut a text inside every guarded word, so that the tokenizer sees none of them whole."""
    cuts: set[int] = set()
    for word in guarded:
        at = text.find(word)
        while at >= 0 and len(word) > 1:
            cuts.add(at + 1)
            at = text.find(word, at + 1)
    if not cuts:
        return text
    borders = [0, *sorted(cuts), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(borders)]
