"""Cutting a document: chunks of at most so many tokens that end where a text may be cut, and overlap as asked.

Chunks follow each other without a gap: every character of the text is in one. A chunk takes as much as has room, up to
the end of a paragraph if that fills half of it, else of a sentence, of a word where one sentence is too long, and of a
grapheme cluster where one word is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from airflow_mullama.documents.borders import TextBorders
from airflow_mullama.documents.chunking import Chunking

# A piece with more characters than this for each token of a chunk counts as too long, unseen: what a model's tokenizer
# would be given to find that out has a bound.
MOST_CHARACTERS_PER_TOKEN = 32
# What a search begins with, until the text has shown how many it has.
USUAL_CHARACTERS_PER_TOKEN = 4.0
# Guesses from lengths before a search halves what is left.
MOST_GUESSES = 4


@dataclass(frozen=True)
class Span:
    """A chunk of a text: its characters ``[start, end)``, and how many tokens the model reads for it."""

    start: int
    end: int
    tokens: int


class NoRoomError(Exception):
    """A text has a place at which nothing fits into a chunk: one cluster alone, or what stands around it, is too long.

    Args:
        message: for the row's error.
    """


CountTokens = Callable[[str], int]
"""How many tokens the model reads for a chunk with this text, those around it included."""
Ends = Callable[[int, int], Sequence[int]]


class Splitter:
    """Cuts texts.

    Args:
        chunking: how long chunks are and where they end.
        count: asked about pieces of a text, none much longer than a chunk.
    """

    def __init__(self, chunking: Chunking, count: CountTokens) -> None:
        self._chunking = chunking
        self._count = count

    def spans(self, text: str) -> Iterator[Span]:
        """The chunks of a text in order, each when it is asked for; always the same for the same text.

        Raises:
            NoRoomError: a place of the text fits into no chunk.
        """
        yield from _Document(self._chunking, self._count, text).spans()


class _Document:
    """One text on its way into chunks."""

    def __init__(self, chunking: Chunking, count: CountTokens, text: str) -> None:
        self._chunking = chunking
        self._count = count
        self._text = text
        self._borders = borders = TextBorders(text)
        self._around = count("")
        self._characters_per_token = USUAL_CHARACTERS_PER_TOKEN
        self._finer: list[Ends] = [borders.words, borders.clusters]
        if chunking.by != "token":
            self._finer.insert(0, borders.sentences)

    def spans(self) -> Iterator[Span]:
        text = self._text
        if not text:
            yield Span(0, 0, self._around)
            return
        if self._around >= self._chunking.tokens:
            raise NoRoomError(
                f"what stands around a chunk has {self._around} tokens already, and a chunk may have "
                f"{self._chunking.tokens}"
            )
        span = self._chunk(0)
        yield span
        while span.end < len(text):
            span = self._next(span)
            yield span

    def _next(self, last: Span) -> Span:
        """The chunk after another one, with as much overlap as leaves it room for something new."""
        overlap = self._chunking.overlap
        while overlap:
            start = self._overlap_start(last, overlap)
            if start < last.end:
                span = self._chunk(start, beyond=last.end)
                if span.end > last.end:
                    return span
            overlap //= 2
        return self._chunk(last.end)

    def _chunk(self, start: int, beyond: int = 0) -> Span:
        """The chunk that begins at a place.

        Args:
            start: the place.
            beyond: where it must end at least, to be of use.
        """
        if self._chunking.by == "paragraph":
            span = self._furthest(start, self._borders.paragraphs)
            if span is not None and span.end > beyond and self._is_full(span):
                return span
        for ends in self._finer:
            if (span := self._furthest(start, ends)) is not None:
                return span
        raise NoRoomError(
            f"the character at {start} and what belongs to it have more tokens than a chunk may have "
            f"({self._chunking.tokens})"
        )

    def _is_full(self, span: Span) -> bool:
        return span.end == len(self._text) or span.tokens >= self._chunking.tokens / 2

    def _furthest(self, start: int, ends: Ends) -> Span | None:
        """The longest chunk that begins at a place and ends at one of these; ``None`` if none has room."""
        most = start + self._chunking.tokens * MOST_CHARACTERS_PER_TOKEN
        reach = start + max(64, int(1.25 * self._chunking.tokens * self._characters_per_token))
        best: Span | None = None
        low = start
        while True:
            # Borders are looked for only as far as a chunk is likely to reach, and further if all of them had room.
            stop = min(most, reach)
            found = ends(low, stop)
            span = self._longest([(start, end) for end in found], self._chunking.tokens)
            best = span or best
            all_had_room = not found or (span is not None and span.end == found[-1])
            if stop >= min(most, len(self._text)) or not all_had_room:
                return best
            low = found[-1] if found else low
            reach = start + 2 * (stop - start)

    def _overlap_start(self, last: Span, overlap: int) -> int:
        """Where the next chunk begins: as far before the last one's end as the overlap reaches, or at that end."""
        nearest = last.end - min(last.end - last.start - 1, overlap * MOST_CHARACTERS_PER_TOKEN)
        for ends in self._finer:
            starts = [place for place in ends(last.start, last.end - 1) if place >= nearest][::-1]
            span = self._longest([(start, last.end) for start in starts], overlap + self._around)
            if span is not None:
                return span.start
        return last.end

    def _longest(self, pieces: Sequence[tuple[int, int]], most_tokens: int) -> Span | None:
        """The longest of some pieces that has room.

        Args:
            pieces: start and end of each, every one longer than the one before.
            most_tokens: that it may have.
        """
        best: Span | None = None
        low, high, guesses = 0, len(pieces), 0  # those before `low` have room, those from `high` on have none
        while low < high:
            if guesses < MOST_GUESSES:
                likely = int((most_tokens - self._around) * self._characters_per_token)
                place = min(max(bisect_right(pieces, likely, key=_length) - 1, low), high - 1)
            else:
                place = (low + high) // 2
            guesses += 1
            start, end = pieces[place]
            tokens = self._count(self._text[start:end])
            own = max(1, tokens - self._around)
            self._characters_per_token = min(max((end - start) / own, 0.25), MOST_CHARACTERS_PER_TOKEN)
            if tokens <= most_tokens:
                best, low = Span(start, end, tokens), place + 1
            else:
                high = place
        return best


def _length(piece: tuple[int, int]) -> int:
    return piece[1] - piece[0]
