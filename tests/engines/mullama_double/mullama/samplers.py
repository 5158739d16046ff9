"""The double's ``SamplerParams`` and the chain of stages that is built of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from mullama.facts import holds


@dataclass
class SamplerParams:
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    penalty_repeat: float = 1.1
    penalty_freq: float = 0.0
    penalty_present: float = 0.0
    penalty_last_n: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise OverflowError("out of range integral type conversion attempted")

    @staticmethod
    def greedy() -> SamplerParams:
        return SamplerParams(0.0, 1, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0, 0)


class Chain:
    """Samples tokens one after the other."""

    def __init__(self, params: SamplerParams) -> None:
        self._params = params
        self._accepted: list[int] = []
        self._random = np.random.default_rng(params.seed if holds("seed_is_fixed") else None)

    def sample(self, logits: dict[int, float]) -> int:
        params = self._params
        tokens = list(logits)
        values = self._penalised(logits)
        order = np.argsort(-values, kind="stable")
        if params.top_k > 0:
            order = order[: params.top_k]
        if params.top_p < 1.0:
            chances = _softmax(values[order])
            order = order[: int(np.searchsorted(np.cumsum(chances), params.top_p)) + 1]
        if params.min_p > 0.0:
            chances = _softmax(values[order])
            order = order[chances >= params.min_p * chances.max()]
        temperature = float(np.float32(params.temperature))
        if temperature > 0.0:
            kept = values[order] / temperature
        elif holds("temperature_0_is_1"):
            kept = values[order]
        else:
            order, kept = order[:1], values[order[:1]]
        token = tokens[int(self._random.choice(order, p=_softmax(kept)))]
        self._accepted += [token] * (2 if holds("accepts_twice") else 1)
        return token

    def _penalised(self, logits: dict[int, float]) -> np.ndarray:
        params = self._params
        window = self._accepted[-params.penalty_last_n :] if params.penalty_last_n else []
        counts = Counter(window)
        values = np.array(list(logits.values()))
        for place, token in enumerate(logits):
            if count := counts[token]:
                value = values[place]
                value = value * params.penalty_repeat if value <= 0 else value / params.penalty_repeat
                values[place] = value - count * params.penalty_freq - params.penalty_present
        return values


def _softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()
