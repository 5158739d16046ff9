"""How likely a model's answer was to it, from the log-probabilities of its tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LogProbabilities:
    """Natural logarithms of the probabilities that an answer's tokens had, each behind those before it.

    Args:
        mean: of all tokens; its exponential is the geometric mean of their probabilities.
        least: of the token that the model was least sure of.
    """

    mean: float
    least: float

    @classmethod
    def of(cls, tokens: Sequence[Mapping[str, Any]]) -> LogProbabilities | None:
        """Of an answer's tokens, in order.

        Args:
            tokens: each with ``token`` (its text) and ``logprob``. One without text that ends the answer does not
                count: some servers tell of it and some do not.

        Returns:
            ``None`` where there are none, or they are no numbers.
        """
        if tokens and not tokens[-1].get("token"):
            tokens = tokens[:-1]
        values = [token.get("logprob") for token in tokens]
        if not values or not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
            return None
        numbers = [min(0.0, float(value)) for value in values if value is not None]
        return cls(sum(numbers) / len(numbers), min(numbers))
