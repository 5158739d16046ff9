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

    At each token of the label, the probability of the tokens with which the chosen label could have gone on is set
    against that of the tokens with which any label could have. What the model would rather have written, had it been
    free, does not count.

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
    chosen = response[start:end]
    confidence, at = 1.0, 0
    for token in tokens:
        begin, at = at, at + len(token["token"])
        if at <= start or begin >= end:
            continue
        before, lead = response[start : max(start, begin)], response[begin:start]
        likely = {other["token"]: other["logprob"] for other in token.get("top_logprobs") or ()}
        likely[token["token"]] = token["logprob"]
        of_chosen = of_any = 0.0
        for text, logprob in likely.items():
            if text.startswith(lead):
                so_far = before + text[len(lead) :]
                probability = math.exp(logprob)
                of_any += probability * any(_goes_on(so_far, label, before) for label in written)
                of_chosen += probability * _goes_on(so_far, chosen, before)
        confidence *= of_chosen / of_any if of_any > 0 else 0.0
    return confidence if at >= end else None


def _goes_on(so_far: str, label: str, before: str) -> bool:
    """Whether a label, with its closing quote, is being written and a token brought it further."""
    return len(so_far) > len(before) and (label.startswith(so_far) or so_far.startswith(label))
