"""Whether two passes of a judge agree: a judgement that changes when it is asked for again is no measure."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from airflow_mullama.evaluation.intervals import Figure, mean, of_counts, share
from airflow_mullama.evaluation.outputs import OutputFile
from airflow_mullama.evaluation.pairs import open_pairs
from airflow_mullama.evaluation.scores import as_label, figures_section
from airflow_mullama.evaluation.sections import Section
from airflow_mullama.storage.filesystems import Resolver, resolve_location


@dataclass
class Agreement:
    """What was found.

    Args:
        answer: the judgement that was compared.
        rows: all rows.
        pairs: rows that both passes judged, by both judgements.
        differences: of judgements that are numbers, in the order of the rows.
    """

    answer: str
    rows: int = 0
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    differences: list[float] = field(default_factory=list)

    def figures(self) -> Mapping[str, Figure]:
        """The share that agrees, what of it is more than chance (Cohen's kappa), and how far numbers differ."""
        same = sum(count for (one, other), count in self.pairs.items() if one == other)
        figures = {"agreement": share(same, self.pairs.total()), "kappa": of_counts(self.pairs, cohen_kappa)}
        if self.differences:
            figures["mean_absolute_difference"] = mean(np.abs(np.array(self.differences)))
        return figures

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        figures = {name: figure.to_json() for name, figure in self.figures().items()}
        return {"answer": self.answer, "rows": self.rows, "judged_twice": self.pairs.total(), **figures}

    def sections(self) -> list[Section]:
        """As a table."""
        return [figures_section(f"{self.answer}: two passes", self.figures())]


def agree(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    answer: str,
    *,
    prefixes: tuple[str | None, str | None] = (None, None),
    resolver: Resolver = resolve_location,
) -> Agreement:
    """Compare what two passes say of the same rows.

    Args:
        first, second: published outputs of the two passes.
        answer: the field or label that holds the judgement.
        prefixes: of the answers' columns in each; ``None``: of those that were added last.
        resolver: opens paths and URLs.

    Raises:
        ConfigurationError: there is no such answer, or the outputs are not of the same rows.
    """
    result = Agreement(answer)
    for pair in open_pairs(first, second, prefixes=prefixes, resolver=resolver):
        names = [_names(file, answer) for file in (pair.first, pair.second)]
        for _, one, other in pair.batches(*names):
            result.rows += one.num_rows
            columns = [
                batch.column(name).to_pylist() for batch, of in zip((one, other), names, strict=True) for name in of
            ]
            for left, left_status, right, right_status in zip(*columns, strict=True):
                if left is None or right is None or not left_status == right_status == "success":
                    continue
                result.pairs[as_label(left), as_label(right)] += 1
                if isinstance(left, (int, float)) and not isinstance(left, bool):
                    result.differences.append(float(right) - float(left))
    return result


def _names(file: OutputFile, answer: str) -> list[str]:
    file.require_answer(answer)
    return [file.prefix + answer, file.prefix + "status"]


def cohen_kappa(pairs: Mapping[tuple[str, str], float]) -> float:
    """Agreement beyond chance: 1 is full, 0 is what two dice would show; NaN if both always say the same one thing."""
    total = sum(pairs.values())
    if not total:
        return math.nan
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    for (one, other), count in pairs.items():
        first[one] += count  # type: ignore[assignment]  # a float where counts are drawn
        second[other] += count  # type: ignore[assignment]
    same = sum(count for (one, other), count in pairs.items() if one == other) / total
    chance = sum(count * second[label] for label, count in first.items()) / (total * total)
    return math.nan if chance == 1 else (same - chance) / (1 - chance)
