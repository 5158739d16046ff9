"""Ending an answer at its stop texts, for engines that know none themselves."""

from __future__ import annotations

from collections.abc import Sequence


def cut_at_stop(pieces: Sequence[str], stop: Sequence[str]) -> tuple[str, int, bool]:
    """The answer as it would be had it ended with the first piece that completes a stop text.

    Args:
        pieces: the answer's text, token by token.
        stop: texts at which it ends, none of them empty.

    Returns:
        The text without the stop text and what follows it, how many pieces it took, and whether one was found.
    """
    if not stop:
        return "".join(pieces), len(pieces), False
    longest = max(map(len, stop))
    text = ""
    for count, piece in enumerate(pieces, 1):
        searched_from = max(0, len(text) - longest + 1)
        text += piece
        found = [at for at in (text.find(word, searched_from) for word in stop) if at >= 0]
        if found:
            return text[: min(found)], count, True
    return text, len(pieces), False
