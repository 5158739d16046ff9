"""How sure a model is of the label it chose, from the probabilities of its tokens."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Tokens asked for at each place. A label beyond them is so unlikely there that leaving it out changes nothing visible.
TOP_TOKENS = 64


def label_confidence(
    response: str, field: str, labels: Sequence[str], tokens: Sequence[Mapping[str, Any]]
) -> float | None:
    """The probability of the chosen label among all labels, 0 to 1.

    At each token of the label, the chosen token's probability is set against that of every token with which some label
    could have gone on from there. What the model would rather have written, had it been free, does not count.

    Args:
        response: the JSON answer, such as ``{"label":"billing"}``.
        field: of the answer that holds the label.
        labels: all there are.
        tokens: of the answer, in order, each with ``token`` (its text), ``logprob`` and ``top_logprobs`` (a list of the
            same for the likeliest tokens at that place), as llama.cpp's server gives them.

    Returns:
        ``None`` where the answer has no such field or the tokens do not spell it.
    """
    match = re.search(rf'"{re.escape(field)}"\s*:\s*"((?:[^"\\]|\\.)*)"', response)
    if match is None:
        return None
    start, end = match.start(1), match.end()  # with the closing quote: it tells a label from one that goes on
    written = [json.dumps(label, ensure_ascii=False)[1:] for label in labels]
    confidence, at = 1.0, 0
    for token in tokens:
        begin, at = at, at + len(token["token"])
        if at <= start or begin >= end:
            continue
        before = response[start : max(start, begin)]
        lead = response[begin:start]  # of a token that begins before the label, such as `:"b`
        chosen = math.exp(token["logprob"])
        others = sum(
            math.exp(other["logprob"])
            for other in token.get("top_logprobs") or ()
            if other["token"] != token["token"] and _goes_on(before, lead, other["token"], written)
        )
        confidence *= chosen / (chosen + others) if chosen > 0 else 0.0
    return confidence if at >= end else None


def _goes_on(before: str, lead: str, token: str, written: Sequence[str]) -> bool:
    """Whether some label can be written by going on with a token."""
    if not token.startswith(lead) or token == lead:
        return False
    text = before + token[len(lead) :]
    return any(label.startswith(text) or text.startswith(label) for label in written)
