"""How probable a label is among all labels, as far as a server tells it with the tokens of an answer.

The same probability as of the engine ``llamacpp`` (:mod:`airflow_mullama.engines.llamacpp.label_scores`), between two
bounds: servers tell the likeliest tokens only, and no others can be asked for. What was not told may be as probable as
the last token that was.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

# The bounds may lie so far apart; where they lie farther, the probability is not known.
MOST_APART = 0.02


def label_confidence(
    response: str, field: str, labels: Sequence[str], tokens: Sequence[Mapping[str, Any]]
) -> float | None:
    """The probability of an answer's label among all labels, 0 to 1.

    Args:
        response: the JSON answer.
        field: of the answer that holds the label.
        labels: all there are.
        tokens: of the answer, in order, each with ``token`` (its text), ``logprob`` and ``top_logprobs`` (a list of the
            same for the most likely tokens at that place).

    Returns:
        ``None`` where it is not known to a hundredth.
    """
    match = re.search(rf'"{re.escape(field)}"\s*:\s*"((?:[^"\\]|\\.)*)"', response)
    if match is None:
        return None
    label = json.loads(response[match.start(1) - 1 : match.end()])
    if label not in labels:
        return None
    # With the closing quote: it tells a label from one that goes on.
    written = {other: json.dumps(other, ensure_ascii=False)[1:] for other in labels}
    written[label] = response[match.start(1) : match.end()]
    low, high = _bounds(response, match.start(1), label, written, tokens)
    return (low + high) / 2 if high - low <= MOST_APART else None


def _bounds(
    response: str, start: int, label: str, written: Mapping[str, str], tokens: Sequence[Mapping[str, Any]]
) -> tuple[float, float]:
    """The least and the most that a label's probability may be; it begins at ``start``."""
    places: list[_Place] = []
    at, end = 0, start + len(written[label])
    for token in tokens:
        begin, at = at, at + len(token["token"])
        if at <= start or begin >= end:
            continue
        before, lead = response[start : max(start, begin)], response[begin:start]
        rests = {other: lead + text[len(before) :] for other, text in written.items() if text.startswith(before)}
        if len(rests) > 1:
            places.append(_Place.of(token, rests, label))
    low, high = (1.0, 1.0) if at >= end else (0.0, 1.0)
    for place in reversed(places):
        low, high = place.bounds(low, high)
    return low, high


@dataclass(frozen=True)
class _Place:
    """What is known of one token, in probabilities.

    Args:
        own: of the token that was written.
        sure: of others that only the label has.
        open: of others that the label has among several.
        against: of others that only other labels have.
        untold_for, untold_against: of what was not told, the most that may be the label's, or not.
    """

    own: float
    sure: float
    open: float
    against: float
    untold_for: float
    untold_against: float

    @classmethod
    def of(cls, token: Mapping[str, Any], rests: Mapping[str, str], label: str) -> _Place:
        """Read what a token tells.

        Args:
            token: of an answer.
            rests: what may follow instead, by label.
            label: of the answer.
        """
        told = {other["token"]: math.exp(other["logprob"]) for other in token.get("top_logprobs") or ()}
        told[token["token"]] = own = math.exp(token["logprob"])
        left = max(0.0, 1.0 - sum(told.values()))
        each = min(*told.values(), left) if len(told) > 1 else left
        sums = dict.fromkeys(_Side, 0.0)
        for text, probability in told.items():
            if text != token["token"] and (side := _side_of(text, rests, label)):
                sums[side] += probability
        # What a token may be: any beginning, or all of a rest and what closes the object.
        texts = {rest[:end] for rest in rests.values() for end in range(1, len(rest) + 1)}
        texts |= {rest + "}" for rest in rests.values()}
        untold = [_side_of(text, rests, label) for text in texts - told.keys()]
        return cls(
            own,
            sums[_Side.LABEL],
            sums[_Side.OPEN],
            sums[_Side.OTHERS],
            min(left, each * sum(side is not _Side.OTHERS for side in untold)),
            min(left, each * sum(side is not _Side.LABEL for side in untold)),
        )

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """Bounds of the label's probability here, from those after the written token."""
        told = self.own + self.sure + self.open + self.against
        least = (self.own * low + self.sure) / (told + self.untold_against)
        most = (self.own * high + self.sure + self.open + self.untold_for) / (told + self.untold_for)
        return least, most


class _Side(Enum):
    """Whose beginning a text is."""

    LABEL = "the label's alone"
    OPEN = "the label's and others'"
    OTHERS = "others'"


def _side_of(text: str, rests: Mapping[str, str], label: str) -> _Side | None:
    begun = [other for other, rest in rests.items() if text and (rest.startswith(text) or text.startswith(rest))]
    if not begun:
        return None
    if label not in begun:
        return _Side.OTHERS
    return _Side.LABEL if len(begun) == 1 else _Side.OPEN
