"""Token ids of texts of which one part is the author's and another a row's.

What the author of a job or of a chat template wrote may spell the model's markers, such as ``<|im_end|>``, and means
them. What a row says never does: it is tokenized as plain text. Each text in between is tokenized as a whole, as
llama.cpp itself tokenizes what stands between two markers, because tokens may span the border of two parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from airflow_mullama.models.gguf_header import GgufHeader

Part = tuple[str, bool]
"""A text, and whether it is the author's."""

# What llama.cpp takes off beside markers that are declared so (C's isspace).
WHITE_SPACE = " \t\n\v\f\r"
# Texts of which some vocabularies let none merge with what follows; see _Continuation.
ANCHORS = ("\n", "|", "!")

NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})


class PromptTokenizer(Protocol):
    """An engine's tokenizer and chat template."""

    def tokenize(self, content: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of a text, if asked with the model's own tokens around it, or with those that it spells."""
        ...

    def tokenize_each(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of plain texts, each by itself."""
        ...

    def render_chat(self, messages: Sequence[dict[str, str]], arguments: Mapping[str, Any] = ...) -> str:
        """The model's chat template, filled, up to where the answer begins; a system message may be moved into the
        user's. The arguments are further variables of the template. Raises ModelLoadError."""
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
class _Markers:
    """What an author's text has from its first marker to its last.

    Args:
        before, after: its text around them.
        tokens: theirs.
        strips_before, strips_after: whether white space next to them is dropped, as Phi-3's vocabulary has it.
    """

    before: str
    tokens: list[int]
    after: str
    strips_before: bool
    strips_after: bool


class PromptTokens:
    """Tokenizes prompts.

    Args:
        tokenizer: the engine's.
        header: the model's.
        guarded: texts of which a row must not make a token, though the tokenizer would.
    """

    def __init__(self, tokenizer: PromptTokenizer, header: GgufHeader, guarded: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        # White space that is a token of its own, as in Gemma's vocabulary, may merge with what a row begins with.
        self._specials = [text for text in set(header.special_tokens.values()) if text.strip()]
        self._guarded = tuple(guarded)
        self._markers: dict[str, _Markers | None] = {}
        self._continuation = _Continuation(tokenizer)

    def of(self, prompts: Sequence[Sequence[Part]]) -> list[list[int]]:
        """Token ids of each prompt, without those that the model wants around a whole text."""
        segments = [self._segments(parts) for parts in prompts]
        pieces = [
            piece
            for of_prompt in segments
            for segment in of_prompt
            if isinstance(segment, str)
            for piece in plain_pieces(segment, self._guarded)
        ]
        tokenized = iter(self._tokenize(pieces))
        results = []
        for of_prompt in segments:
            tokens: list[int] = []
            for segment in of_prompt:
                if isinstance(segment, str):
                    for _ in plain_pieces(segment, self._guarded):
                        tokens += next(tokenized)
                else:
                    tokens += segment
            results.append(tokens)
        return results

    def _segments(self, parts: Sequence[Part]) -> list[str | list[int]]:
        """Plain texts, and the tokens of markers between them."""
        segments: list[str | list[int]] = []
        plain, strip = "", False
        for text, is_authors in parts:
            markers = self._markers_in(text) if is_authors else None
            if markers is None:
                plain += text
                continue
            plain += markers.before
            plain = plain.lstrip(WHITE_SPACE) if strip else plain
            segments += [plain.rstrip(WHITE_SPACE) if markers.strips_before else plain, markers.tokens]
            plain, strip = markers.after, markers.strips_after
        segments.append(plain.lstrip(WHITE_SPACE) if strip else plain)
        return [segment for segment in segments if segment]

    def _markers_in(self, text: str) -> _Markers | None:
        if text not in self._markers:
            self._markers[text] = self._find_markers(text)
        return self._markers[text]

    def _find_markers(self, text: str) -> _Markers | None:
        found = [special for special in self._specials if special in text]
        if not found:
            return None
        start = min(text.find(special) for special in found)
        end = max(text.rfind(special) + len(special) for special in found)
        markers = text[start:end]

        def parsed(content: str) -> list[int]:
            return self._tokenizer.tokenize(content, parse_special=True)

        return _Markers(
            before=text[:start],
            tokens=parsed(markers),
            after=text[end:],
            strips_before=parsed(f"x \n{markers}") == parsed(f"x{markers}"),
            strips_after=parsed(f"{markers}\n x") == parsed(f"{markers}x"),
        )

    def _tokenize(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """Those of pieces; one that goes on where another ended begins no text."""
        if not pieces:
            return []
        tokenized = self._tokenizer.tokenize_each([self._continuation.text_of(piece) for piece in pieces])
        return [self._continuation.tokens_of(piece, tokens) for piece, tokens in zip(pieces, tokenized, strict=True)]


@dataclass(frozen=True)
class Piece:
    """A plain text to tokenize.

    Args:
        text: the text.
        goes_on: whether it goes on where another one ended, in the middle of a text.
    """

    text: str
    goes_on: bool


def plain_pieces(text: str, guarded: Sequence[str]) -> list[Piece]:
    """Cut a text inside every guarded word, so that the tokenizer sees none of them whole."""
    cuts: set[int] = set()
    for word in guarded:
        at = text.find(word)
        while at >= 0 and len(word) > 1:
            cuts.add(at + 1)
            at = text.find(word, at + 1)
    borders = [0, *sorted(cuts), len(text)]
    return [Piece(text[start:end], start > 0) for start, end in itertools.pairwise(borders)]


class _Continuation:
    """Tokenizing a piece that goes on in the middle of a text.

    SentencePiece vocabularies put a blank before whatever they tokenize. Behind an anchor, whose tokens are known and
    taken off again, there is none.
    """

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self._tokenizer = tokenizer
        self._anchor, self._anchor_tokens = self._find()

    def _find(self) -> tuple[str, list[int]]:
        alone = self._tokenizer.tokenize("b")
        for anchor in ANCHORS:
            before, both = self._tokenizer.tokenize(anchor), self._tokenizer.tokenize(anchor + "b")
            if both[: len(before)] == before:
                return ("", []) if both[len(before) :] == alone else (anchor, before)
        return "", []

    def text_of(self, piece: Piece) -> str:
        """What to tokenize for a piece."""
        return self._anchor + piece.text if piece.goes_on else piece.text

    def tokens_of(self, piece: Piece, tokens: list[int]) -> list[int]:
        """A piece's own of the tokens of :meth:`text_of`."""
        count = len(self._anchor_tokens)
        if not piece.goes_on or not count:
            return tokens
        if tokens[:count] == self._anchor_tokens:
            return tokens[count:]
        return self._tokenizer.tokenize(piece.text)  # it merged with the anchor: rather a blank more


def guarded_texts(tokenizer: PromptTokenizer, header: GgufHeader, prompts: Iterable[str]) -> tuple[str, ...]:
    """Special tokens that a row's text must not be able to say.

    Those of the prompts, those of the template's other branches (other roles, the end of a turn), and those whose
    meaning the header declares, such as the end of the text. llama.cpp leaves control tokens alone in plain text, but
    not tokens that a model's makers declared as user-defined ones.

    Args:
        tokenizer: the engine's.
        header: the model's.
        prompts: that the author and the template make.
    """
    written = [header.chat_template or "", *prompts]
    declared = {value for key, value in header.metadata.items() if key.endswith("_token_id")}
    return tuple(
        text
        for token, text in header.special_tokens.items()
        if text.strip()
        and (token in declared or any(text in one for one in written))
        and token in tokenizer.tokenize(text)
    )
