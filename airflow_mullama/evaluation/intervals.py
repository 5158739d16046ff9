"""How far a figure taken from some rows can be trusted: intervals of 95 %, and a test of two answers to each row.

Sources: E. B. Wilson (1927) for shares; B. Efron (1979) for the bootstrap; Q. McNemar (1947), in its exact form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Z = 1.959963984540054  # 95 % of a normal distribution lie within this many standard deviations
RESAMPLES = 1000
# From here on the mean of a sample is as good as normally distributed, and resampling would show the same.
NORMAL_FROM = 10_000
SMALL_SAMPLE = 100

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A figure with the interval that it lies in, at 95 %; ``None`` throughout where there is no row to take it from.

    Args:
        value: the figure.
        low, high: its interval.
        rows: how many rows it was taken from.
    """

    value: float | None
    low: float | None
    high: float | None
    rows: int

    @property
    def is_of_few(self) -> bool:
        """Whether so few rows say little, whatever the figure."""
        return self.rows < SMALL_SAMPLE

    def to_json(self) -> dict[str, Any]:
        """Rounded to six digits after the point."""
        rounded = {
            name: None if value is None else round(value, 6)
            for name, value in (("value", self.value), ("low", self.low), ("high", self.high))
        }
        return {**rounded, "rows": self.rows}

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return "–"
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"


def share(count: int, rows: int) -> Figure:
    """A share of rows, with Wilson's interval, which holds for few rows and for shares near 0 and 1 too."""
    if not rows:
        return Figure(None, None, None, 0)
    p = count / rows
    middle = (p + Z * Z / (2 * rows)) / (1 + Z * Z / rows)
    half = Z / (1 + Z * Z / rows) * math.sqrt(p * (1 - p) / rows + Z * Z / (4 * rows * rows))
    return Figure(p, max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)), rows)


def mean(values: Sequence[float] | Floats, rows: int | None = None) -> Figure:
    """A mean, with the bootstrap's interval (the normal one from 10,000 values on).

    Args:
        values: finite numbers.
        rows: how many there were, where ``values`` is a sample of them.
    """
    array = np.asarray(values, np.float64)
    if not len(array):
        return Figure(None, None, None, 0)
    middle = float(array.mean())
    if len(array) >= NORMAL_FROM:
        half = Z * float(array.std(ddof=1)) / math.sqrt(len(array))
        return Figure(middle, middle - half, middle + half, rows or len(array))
    generator = np.random.default_rng(0)
    means = np.array([generator.choice(array, len(array)).mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [0.025, 0.975])
    return Figure(middle, min(middle, float(low)), max(middle, float(high)), rows or len(array))


def of_counts(counts: Mapping[Any, int], figure: Callable[[Mapping[Any, float]], float]) -> Figure:
    """A figure that is computed from counts (of pairs of labels), with the bootstrap's interval.

    Args:
        counts: rows by what they are.
        figure: computes it; NaN where it is not defined.
    """
    keys, rows = list(counts), sum(counts.values())
    if not rows:
        return Figure(None, None, None, 0)
    value = figure(counts)
    if math.isnan(value):
        return Figure(None, None, None, rows)
    shares = np.array([counts[key] for key in keys], np.float64) / rows
    drawn = np.random.default_rng(0).multinomial(rows, shares, size=RESAMPLES)
    figures = np.array([figure(dict(zip(keys, row.tolist(), strict=True))) for row in drawn])
    low, high = np.nanquantile(figures, [0.025, 0.975])
    return Figure(value, min(value, float(low)), max(value, float(high)), rows)


def mcnemar(only_first: int, only_second: int) -> float:
    """How likely a difference as large as this one is if both are equally good (McNemar's exact test, two-sided).

    Args:
        only_first: rows that the first alone has right.
        only_second: rows that the second alone has right.
    """
    rows, fewer = only_first + only_second, min(only_first, only_second)
    if not rows:
        return 1.0
    logarithms = [
        math.lgamma(rows + 1) - math.lgamma(k + 1) - math.lgamma(rows - k + 1) - rows * math.log(2)
        for k in range(fewer + 1)
    ]
    largest = max(logarithms)
    tail = math.exp(largest) * math.fsum(math.exp(one - largest) for one in logarithms)
    return min(1.0, 2 * tail)
