"""Whether a confidence means what it says: of the rows with 0.8, are eight in ten right?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from airflow_mullama.evaluation.intervals import share
from airflow_mullama.evaluation.sections import Section

BINS = 10


@dataclass
class Calibration:
    """Rows by their confidence, in ten bins of equal width.

    Args:
        rows, right, sums: of each bin: rows, rows that are right, the sum of their confidences.
        squares: the sum of squared distances between confidence and truth.
    """

    rows: list[int] = field(default_factory=lambda: [0] * BINS)
    right: list[int] = field(default_factory=lambda: [0] * BINS)
    sums: list[float] = field(default_factory=lambda: [0.0] * BINS)
    squares: float = 0.0

    def add(self, confidence: float, is_right: bool) -> None:
        """Take a row; ``confidence`` is 0 to 1."""
        bin_ = min(BINS - 1, max(0, int(confidence * BINS)))
        self.rows[bin_] += 1
        self.right[bin_] += is_right
        self.sums[bin_] += confidence
        self.squares += (confidence - is_right) ** 2

    @property
    def expected_error(self) -> float | None:
        """The mean distance between what is said and what is true, over all rows (expected calibration error)."""
        total = sum(self.rows)
        if not total:
            return None
        return sum(abs(right - said) for right, said in zip(self.right, self.sums, strict=True)) / total

    @property
    def brier_score(self) -> float | None:
        """The mean squared distance: 0 is perfect, 0.25 is what a constant 0.5 gets."""
        total = sum(self.rows)
        return self.squares / total if total else None

    def to_json(self) -> dict[str, Any]:
        """Both figures, and the bins that have rows."""
        return {
            "expected_calibration_error": self.expected_error,
            "brier_score": self.brier_score,
            "bins": [
                {
                    "from": number / BINS,
                    "to": (number + 1) / BINS,
                    "mean_confidence": self.sums[number] / self.rows[number],
                    "accuracy": share(self.right[number], self.rows[number]).to_json(),
                }
                for number in range(BINS)
                if self.rows[number]
            ],
        }

    def section(self) -> Section:
        """The bins as a table."""
        rows = [
            (
                f"{number / BINS:.1f}–{(number + 1) / BINS:.1f}",
                f"{self.rows[number]:,}",
                f"{self.sums[number] / self.rows[number]:.3f}",
                str(share(self.right[number], self.rows[number])),
            )
            for number in range(BINS)
            if self.rows[number]
        ]
        error, brier = self.expected_error, self.brier_score
        notes = [] if error is None else [f"Expected calibration error {error:.3f}, Brier score {brier:.3f}."]
        return Section("confidence", ("confidence", "rows", "mean confidence", "accuracy"), rows, notes)
