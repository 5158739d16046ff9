"""Words of others (servers, files, models, paths) made fit to be shown in a terminal, a log, a column or a page."""

from __future__ import annotations

import re

from airflow_mullama.redaction.credentials import blot

MOST_CHARACTERS = 4000
# A text may have megabytes, of which nobody reads more than the beginning.
MOST_LOOKED_AT = 1 << 16
LONGEST_KEY = 4096
# What moves a terminal's cursor, ends a line, turns the reading direction, or is no character at all.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text in one line, with keys blotted out, control characters written out, and no longer than it may be.

    Args:
        text: anybody's.
        most: characters that are kept.
    """
    length = len(text)
    # The last part of what is looked at may end inside a key, which could then not be told from other words.
    text = blot(text) if length <= MOST_LOOKED_AT else blot(text[:MOST_LOOKED_AT])[:-LONGEST_KEY]
    cut = length > MOST_LOOKED_AT or len(text) > most
    text = text[:most]
    if _UNPRINTABLE.search(text):
        lines = " ".join(line.strip() for line in text.splitlines())
        text = _UNPRINTABLE.sub(_written_out, lines.replace("\t", " "))[:most]
    return f"{text}… ({length:,} characters)" if cut else text


def _written_out(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
