"""What the engine ``llamacpp`` knows of how its model thinks, in texts and in tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from airflow_mullama.engines.llamacpp.completions import Unwanted, Written
from airflow_mullama.engines.model_prompts import ModelPrompt
from airflow_mullama.engines.reasoning import ReasoningTags, Thought, bare_answer, split_reasoning
from airflow_mullama.models.gguf_header import GgufHeader

Tokenize = Callable[..., list[int]]


class Thoughts:
    """Of a model that has tags for them.

    Args:
        prompt: of the job.
        tags: of the model.
        header: of the model.
        tokenize: gives a text's token ids, with ``parse_special`` those that it spells; for one thread at a time.
        max_tokens: most tokens of a block.
        n_ctx: tokens of one row.
    """

    def __init__(
        self,
        prompt: ModelPrompt,
        tags: ReasoningTags,
        header: GgufHeader,
        tokenize: Tokenize,
        max_tokens: int | None,
        n_ctx: int,
    ) -> None:
        self.tags = tags
        self.max_tokens = max_tokens
        self.may_think = prompt.may_think
        self.begins_inside = prompt.begins_inside
        self._n_ctx = n_ctx
        self._tokenize = tokenize
        self._lock = threading.Lock()
        self._closes = tokenize(tags.closes, parse_special=True)
        self._closing = tokenize(tags.closing, parse_special=True)
        self._between = tokenize(tags.between, parse_special=True) if tags.between else []
        written = (tags.opens, tags.closes)
        markers = [text for text in header.special_tokens.values() if text and any(text in one for one in written)]
        # Without this, llama.cpp leaves markers that are control tokens out of the text.
        self.fields: Mapping[str, Any] = {"preserved_tokens": markers} if markers else {}

    @property
    def unwanted(self) -> Unwanted | None:
        """Tells a beginning that is no thought; ``None`` where the prompt has opened the block."""
        return None if self.begins_inside else lambda text: self.tags.may_open(text) is False

    def is_answer(self, thought: Written) -> bool:
        """Whether what was to be a thought is none: the model answered at once."""
        return thought.unwanted or not (self.begins_inside or self.tags.may_open(thought.text) or thought.stop_text)

    def text_of(self, thought: Written) -> str | None:
        """What the model thought."""
        text = thought.text + thought.stop_text
        return split_reasoning(text, self.tags, inside=True).reasoning

    def tokens_of(self, thought: Written) -> list[int]:
        """All that it wrote, with the tag that ended it."""
        if thought.tokens is not None:
            return thought.tokens
        begun = thought.text.lstrip()
        opened = self.tags.opens if begun.startswith(self.tags.opens) else ""
        with self._lock:
            opening = self._tokenize(opened, parse_special=True) if opened else []
            said = self._tokenize(begun.removeprefix(opened))
        return [*opening, *said, *(self._closes if thought.stop_text else [])]

    def tokens_between(self, *, closed: bool) -> list[int]:
        """What is written between a thought and its answer."""
        return self._between if closed else self._closing

    def text_between(self, *, closed: bool) -> str:
        """The same as a text."""
        return (self.tags.between or "") if closed else self.tags.closing

    def behind(self, answer: str, reasoning: str | None) -> Thought:
        """What was written behind a thought: nearly always the answer alone, and sometimes another thought first."""
        thought = split_reasoning(answer, self.tags)
        if thought.length == 0:
            return Thought(reasoning, bare_answer(answer, self.tags))
        said = [one for one in (reasoning, thought.reasoning) if one]
        return replace(thought, reasoning="\n\n".join(said) or None)

    def count(self, written: Written, length: int) -> int | None:
        """Tokens of the thought in a text.

        Args:
            written: the whole text.
            length: characters of it that are the thought and its tags.
        """
        if length == 0:
            return None
        if length >= len(written.text):
            return written.completion_tokens
        tokens, closes = written.tokens or [], self._closes
        for start in range(len(tokens) - len(closes) + 1):
            if tokens[start : start + len(closes)] == closes:
                return start + len(closes)
        with self._lock:  # the tag was written with other tokens
            return min(written.completion_tokens, len(self._tokenize(written.text[:length])))

    def remedy(self, thought: Written) -> str:
        """Against a thought that was cut."""
        if thought.prompt_tokens + thought.completion_tokens >= self._n_ctx - 1:
            return f"raise n_ctx (now {self._n_ctx}), or set a smaller max_reasoning_tokens"
        return "raise max_tokens, which is for both, or set max_reasoning_tokens"
