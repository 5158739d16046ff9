"""Where a text may be cut: ends of paragraphs, sentences, words and grapheme clusters.

Sentences, words and clusters are those of Unicode (https://www.unicode.org/reports/tr29/), whatever the language, with
the properties of characters from the package ``regex``. Some things are tailored, as that report allows: a line break
inside a sentence (the next line begins with a small letter) ends none, so that texts with hard line breaks can be cut;
a sentence keeps the empty lines that follow it, and a word the space and the punctuation.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property

import regex

# SB3 to SB11 of the report: what ends a sentence, unless what comes next says that it goes on. `X` stands for the
# characters that belong to the one before them (SB5).
_SENTENCE_END = regex.compile(
    r"""
    (?(DEFINE)
        (?<X>        [\p{SB=Extend}\p{SB=Format}]*+ )
        (?<break>    \r\n | [\p{SB=Sep}\p{SB=CR}\p{SB=LF}] )
        (?<after>    (?:\p{SB=Close}(?&X))*+ (?:\p{SB=Sp}(?&X))*+ )
        (?<no_end>   [\p{SB=SContinue}\p{SB=STerm}\p{SB=ATerm}] )                                        # SB8a
        (?<goes_on>  [^\p{SB=OLetter}\p{SB=Upper}\p{SB=Lower}\p{SB=Sep}\p{SB=CR}\p{SB=LF}\p{SB=STerm}\p{SB=ATerm}]*+
                     \p{SB=Lower} )                                                                     # SB8
    )
    (?= [\p{SB=STerm}\p{SB=ATerm}\p{SB=Sep}\p{SB=CR}\p{SB=LF}] )
    (?: \p{SB=STerm} (?&X) (?&after) (?: (?&break) | (?!(?&no_end)) )
      | \p{SB=ATerm} (?&X)
        (?! \p{SB=Numeric} )                                                                            # SB6
        (?! (?<=[\p{SB=Upper}\p{SB=Lower}][\p{SB=Extend}\p{SB=Format}]*\p{SB=ATerm}[\p{SB=Extend}\p{SB=Format}]*)
            \p{SB=Upper} )                                                                              # SB7
        (?&after) (?: (?&break) | (?!(?&no_end)|(?&goes_on)) )
      | (?&break)                                                                                       # SB4
    )
    """,
    regex.VERBOSE | regex.VERSION1,
)
_PARAGRAPH_END = regex.compile(r"(?:\r\n|[\n\r\x85])[^\S\r\n\x85\u2028\u2029]*(?:\r\n|[\n\r\x85])\s*+|[\f\u2029]\s*+")
_LINE_BREAKS = frozenset("\n\r\x85")
# Two characters that may be of one cluster; what is certain shows only from the cluster's beginning.
_MAY_BE_ONE_CLUSTER = regex.compile(
    r"""
    \r\n
  | .[\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}\p{GCB=V}\p{GCB=T}]
  | [\p{GCB=Prepend}\p{GCB=ZWJ}\p{GCB=Extend}].
  | \p{GCB=L}[\p{GCB=L}\p{GCB=LV}\p{GCB=LVT}]
  | \p{GCB=RI}\p{GCB=RI}
    """,
    regex.VERBOSE | regex.VERSION1 | regex.DOTALL,
)
# Whether a word ends may depend on this many characters that follow.
LOOK_AHEAD = 8
# Before a word, behind the space or punctuation that follows the one before: not behind what opens, as a bracket does.
_WORD_BEGIN = regex.compile(
    r"(?w)\b(?!\s)(?:(?<=\s)|(?=[\p{Alphabetic}\p{N}])(?<=[\p{Alphabetic}\p{N}\p{Po}\p{Pe}\p{Pf}\p{Pd}\p{Pc}\p{S}]))"
)
_CLUSTER = regex.compile(r"\X")


class TextBorders:
    """The borders of one text, each kind found when it is first asked for.

    Args:
        text: in which they are.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def paragraphs(self, start: int, stop: int) -> list[int]:
        """Ends of paragraphs in ``(start, stop]``: before the text that follows an empty line."""
        return _between(self._paragraphs, start, stop)

    def sentences(self, start: int, stop: int) -> list[int]:
        """Ends of sentences in ``(start, stop]``, behind the space that follows them."""
        return _between(self._sentences, start, stop)

    def words(self, start: int, stop: int) -> list[int]:
        """Ends of words in ``(start, stop]``, behind the space and punctuation that follow them."""
        text = self.text
        found = [
            place
            for match in _WORD_BEGIN.finditer(text, start + 1, stop + LOOK_AHEAD)
            if (place := match.start()) <= stop and place < len(text) and _is_between_clusters(text, place)
        ]
        return [*found, len(text)] if stop >= len(text) > start else found

    def clusters(self, start: int, stop: int) -> list[int]:
        """Ends of grapheme clusters in ``(start, stop]``; ``start`` is one itself."""
        found = []
        for match in _CLUSTER.finditer(self.text, start):
            if match.end() > stop:
                break
            found.append(match.end())
        return found

    @cached_property
    def _paragraphs(self) -> list[int]:
        return _with_end(self.text, [match.end() for match in _PARAGRAPH_END.finditer(self.text)])

    @cached_property
    def _sentences(self) -> list[int]:
        ends = [match.end() for match in _SENTENCE_END.finditer(self.text)]
        return _with_end(self.text, [end for end in ends if not self._goes_on(end)])

    def _goes_on(self, end: int) -> bool:
        text = self.text
        if text[end : end + 1].isspace():
            return True  # what is empty belongs to what is before it
        if text[end - 1] not in _LINE_BREAKS:
            return False
        rest = text[end : end + 64].lstrip(" \t")
        return bool(rest) and rest[0].islower()


def _with_end(text: str, ends: list[int]) -> list[int]:
    return [*(end for end in ends if end < len(text) and _is_between_clusters(text, end)), len(text)]


def _between(places: list[int], start: int, stop: int) -> list[int]:
    return places[bisect_right(places, start) : bisect_right(places, stop)]


def _is_between_clusters(text: str, place: int) -> bool:
    """Whether no grapheme cluster goes on beyond a place; ``False`` also where two characters do not tell."""
    around = text[place - 1 : place + 1]
    return (around.isascii() and around != "\r\n") or _MAY_BE_ONE_CLUSTER.match(around) is None
