"""What there is to say, as tables that a terminal, a page and a test can all show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class Section:
    """One table with its heading.

    Args:
        title: of the table.
        columns: their headings.
        rows: their cells, as text.
        notes: sentences below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def shown(value: object, most: int = SHOWN_CHARACTERS) -> str:
    """A value as one line of at most ``most`` characters."""
    if value is None:
        return "null"
    text = " ".join(str(value)[: 4 * most].split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def percent(part: int, whole: int) -> str:
    """A share as it is read, never rounded to all or none while it is neither."""
    if not whole:
        return "–"
    value = 100 * part / whole
    if 0 < value < 0.1:
        return "< 0.1 %"
    if 99.9 < value < 100:
        return "> 99.9 %"
    return f"{value:.1f} %"
