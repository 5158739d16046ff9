"""How right answers are, by what is asked for: a label, a text, a number.

A row without an answer (failed, invalid) is not right: who asks for a label and gets none was not served. A row whose
expected value is null says nothing, and is left out and counted.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from airflow_mullama.evaluation.intervals import Figure, mean, of_counts, share
from airflow_mullama.evaluation.sections import Section, shown

# Of so many numbers the mean error is taken; of more, a sample drawn evenly.
MOST_NUMBERS = 100_000
MOST_LABELS = 1000
MOST_SHOWN_LABELS = 20
_ENDS = frozenset(" .,;:!?\"'`。、")


class Score(Protocol):
    """What is gathered over the rows of one answer."""

    def add(self, expected: Any, answer: Any) -> None:
        """Take a row; ``answer`` is ``None`` where there is none."""

    def figures(self) -> Mapping[str, Figure]:
        """The figures by name; the first is what a gate would look at."""

    def to_json(self) -> dict[str, Any]:
        """All there is to say, as JSON."""

    def sections(self, title: str) -> list[Section]:
        """The same as tables."""


@dataclass
class LabelScore:
    """Labels (also booleans): accuracy, precision and recall of each, which is taken for which.

    Args:
        pairs: rows by expected label and answer.
    """

    pairs: Counter[tuple[str, str | None]] = field(default_factory=Counter)

    def add(self, expected: Any, answer: Any) -> None:
        """Take a row."""
        self.pairs[as_label(expected), None if answer is None else as_label(answer)] += 1

    def figures(self) -> Mapping[str, Figure]:
        """Accuracy, and the mean F1 of all labels that are expected (macro)."""
        right = sum(count for (expected, answer), count in self.pairs.items() if expected == answer)
        return {"accuracy": share(right, self.pairs.total()), "macro_f1": of_counts(self.pairs, macro_f1)}

    def per_label(self) -> dict[str, dict[str, Figure]]:
        """Precision (of the rows that got it) and recall (of the rows that should have it) of each label."""
        expected_counts, answer_counts, right = _margins(self.pairs)
        labels = sorted({*expected_counts, *(label for label in answer_counts if label is not None)})
        return {
            label: {
                "precision": share(right[label], answer_counts[label]),
                "recall": share(right[label], expected_counts[label]),
            }
            for label in labels
        }

    def confusions(self) -> list[tuple[str, str | None, int]]:
        """Which label is taken for which, the most frequent first."""
        wrong = [(expected, answer, count) for (expected, answer), count in self.pairs.items() if expected != answer]
        return sorted(wrong, key=lambda one: (-one[2], one[0], one[1] or ""))

    def to_json(self) -> dict[str, Any]:
        """With every pair of labels that occurs."""
        return {
            "kind": "label",
            **{name: figure.to_json() for name, figure in self.figures().items()},
            "labels": {
                label: {name: figure.to_json() for name, figure in figures.items()}
                for label, figures in self.per_label().items()
            },
            "confusion": [
                {"expected": expected, "answer": answer, "rows": count}
                for (expected, answer), count in sorted(
                    self.pairs.items(), key=lambda one: (one[0][0], one[0][1] or "")
                )
            ],
        }

    def sections(self, title: str) -> list[Section]:
        """Figures, labels, confusions."""
        labels = self.per_label()
        expected_counts, _, _ = _margins(self.pairs)
        rarest_last = sorted(labels, key=lambda label: (-expected_counts[label], label))
        confusions = self.confusions()
        return [
            figures_section(title, self.figures()),
            Section(
                f"{title}: labels",
                ("label", "rows", "precision", "recall"),
                [
                    (shown(label, 60), f"{expected_counts[label]:,}", *map(str, labels[label].values()))
                    for label in rarest_last[:MOST_SHOWN_LABELS]
                ],
                _more(len(labels)),
            ),
            Section(
                f"{title}: taken for one another",
                ("expected", "answer", "rows"),
                [
                    (shown(expected, 60), "no answer" if answer is None else shown(answer, 60), f"{count:,}")
                    for expected, answer, count in confusions[:MOST_SHOWN_LABELS]
                ],
                _more(len(confusions)),
            ),
        ]


@dataclass
class TextScore:
    """Free text: equal to the letter, and equal apart from what a reader would not call a difference."""

    rows: int = 0
    exact: int = 0
    normalized: int = 0

    def add(self, expected: Any, answer: Any) -> None:
        """Take a row."""
        self.rows += 1
        if answer is not None:
            self.exact += expected == answer
            self.normalized += normalized(str(expected)) == normalized(str(answer))

    def figures(self) -> Mapping[str, Figure]:
        """Both shares."""
        return {
            "normalized_match": share(self.normalized, self.rows),
            "exact_match": share(self.exact, self.rows),
        }

    def to_json(self) -> dict[str, Any]:
        """The shares."""
        return {"kind": "text", **{name: figure.to_json() for name, figure in self.figures().items()}}

    def sections(self, title: str) -> list[Section]:
        """One table."""
        return [figures_section(title, self.figures())]


@dataclass
class NumberScore:
    """Numbers: equal, and how far off."""

    rows: int = 0
    exact: int = 0
    errors: list[float] = field(default_factory=list)
    answered: int = 0
    _generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, expected: Any, answer: Any) -> None:
        """Take a row."""
        self.rows += 1
        if answer is None:
            return
        self.exact += expected == answer
        error = float(answer) - float(expected)
        if not math.isfinite(error):
            return
        self.answered += 1
        if len(self.errors) < MOST_NUMBERS:
            self.errors.append(error)
        elif (place := int(self._generator.integers(self.answered))) < MOST_NUMBERS:
            self.errors[place] = error

    def figures(self) -> Mapping[str, Figure]:
        """The share that is equal; the mean size of the error and its mean, over rows with an answer."""
        errors = np.array(self.errors, np.float64)
        return {
            "exact_match": share(self.exact, self.rows),
            "mean_absolute_error": mean(np.abs(errors), self.answered),
            "mean_error": mean(errors, self.answered),
        }

    def to_json(self) -> dict[str, Any]:
        """The figures."""
        return {"kind": "number", **{name: figure.to_json() for name, figure in self.figures().items()}}

    def sections(self, title: str) -> list[Section]:
        """One table."""
        return [figures_section(title, self.figures())]


def figures_section(title: str, figures: Mapping[str, Figure]) -> Section:
    """Figures with their intervals, and a word where they are of few rows."""
    fewest = min((figure.rows for figure in figures.values()), default=0)
    few = any(figure.is_of_few for figure in figures.values())
    return Section(
        title,
        ("figure", "value (95 % interval)", "rows"),
        [(name.replace("_", " "), str(figure), f"{figure.rows:,}") for name, figure in figures.items()],
        [f"A small sample ({fewest} rows): the intervals are wide, and so is what these figures may mean."]
        if few
        else [],
    )


def macro_f1(pairs: Mapping[tuple[str, str | None], float]) -> float:
    """The mean F1 of the labels that are expected; NaN where none is."""
    expected_counts, answer_counts, right = _margins(pairs)
    scores = [
        2 * right.get(label, 0) / (count + answer_counts.get(label, 0))
        for label, count in expected_counts.items()
        if count
    ]
    return sum(scores) / len(scores) if scores else math.nan


def _margins(
    pairs: Mapping[tuple[str, str | None], float],
) -> tuple[Counter[str], Counter[str | None], Counter[str]]:
    """Rows by expected label, by answer, and those that are right."""
    expected_counts: Counter[str] = Counter()
    answer_counts: Counter[str | None] = Counter()
    right: Counter[str] = Counter()
    for (expected, answer), count in pairs.items():
        expected_counts[expected] += count  # type: ignore[assignment]  # a float where counts are drawn
        answer_counts[answer] += count  # type: ignore[assignment]
        if expected == answer:
            right[expected] += count  # type: ignore[assignment]
    return expected_counts, answer_counts, right


def as_label(value: Any) -> str:
    """A label as text; booleans as JSON writes them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def normalized(text: str) -> str:
    """A text without what a reader would not call a difference: case, width of letters, runs of blanks, and quotes,
    brackets and full stops at its ends."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    kept = [number for number, character in enumerate(folded) if not _frames(character)]
    return folded[kept[0] : kept[-1] + 1] if kept else folded


def _frames(character: str) -> bool:
    return character in _ENDS or unicodedata.category(character) in ("Pi", "Pf", "Ps", "Pe")


def _more(count: int) -> Sequence[str]:
    return [f"and {count - MOST_SHOWN_LABELS:,} more"] if count > MOST_SHOWN_LABELS else []
