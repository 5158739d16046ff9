"""Two outputs of the same rows (another prompt, model or quantisation): what changed, and whether it is better."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.evaluation.intervals import mcnemar, share
from airflow_mullama.evaluation.outputs import OutputFile, is_text
from airflow_mullama.evaluation.pairs import FilePair, open_pairs
from airflow_mullama.evaluation.scores import as_label, normalized
from airflow_mullama.evaluation.sections import Section, percent, shown
from airflow_mullama.manifest import PartitionManifest, merge_manifests
from airflow_mullama.storage.filesystems import Resolver, resolve_location

MOST_SHOWN_ROWS = 100
MOST_SHOWN_INPUTS = 2
# Vectors that point in the same direction to this degree are not told apart by any search.
SAME_COSINE = 0.9999
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class ChangedRow:
    """A row that the two outputs answer differently.

    Args:
        partition: its file.
        row: its number in it.
        inputs: some of its input columns.
        first, second: what became of it.
        expected: what was expected, if that is known.
    """

    partition: str
    row: int
    inputs: str
    first: str
    second: str
    expected: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is."""
        known = {} if self.expected is None else {"expected": self.expected}
        place = {"partition": self.partition, "row": self.row, "inputs": self.inputs}
        return {**place, "first": self.first, "second": self.second, **known}


@dataclass
class Comparison:
    """What was found.

    Args:
        first, second: the accounts of both outputs.
        answer: what was compared.
        rows: all rows.
        changed: rows with another outcome.
        shown_rows: the first of them.
        statuses: rows by status in both.
        right: rows with an expected value by whether each output has it right; empty if nothing was expected.
        cosines: of vectors: their sum, the least, and how many.
    """

    first: PartitionManifest
    second: PartitionManifest
    answer: str
    rows: int = 0
    changed: int = 0
    shown_rows: list[ChangedRow] = field(default_factory=list)
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    right: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    cosines: tuple[float, float, int] = (0.0, 1.0, 0)

    @property
    def p_value(self) -> float | None:
        """How likely so different counts of right rows are if both are equally good; ``None`` if that is not known."""
        return mcnemar(self.right[True, False], self.right[False, True]) if self.right else None

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        value: dict[str, Any] = {
            "rows": self.rows,
            "changed": share(self.changed, self.rows).to_json(),
            "statuses": [
                {"first": one, "second": other, "rows": rows} for (one, other), rows in sorted(self.statuses.items())
            ],
            "first": _cost(self.first),
            "second": _cost(self.second),
        }
        if self.cosines[2]:
            value["cosine"] = {"mean": self.cosines[0] / self.cosines[2], "least": self.cosines[1]}
        if self.right:
            total = self.right.total()
            value["accuracy"] = {
                "first": share(self.right[True, True] + self.right[True, False], total).to_json(),
                "second": share(self.right[True, True] + self.right[False, True], total).to_json(),
                "only_first_right": self.right[True, False],
                "only_second_right": self.right[False, True],
                "p_value": self.p_value,
            }
        return {**value, "changed_rows": [row.to_json() for row in self.shown_rows]}

    def sections(self) -> list[Section]:
        """As tables."""
        summary = [
            ("rows", f"{self.rows:,}"),
            ("changed", f"{self.changed:,} ({percent(self.changed, self.rows)})"),
        ]
        if self.cosines[2]:
            summary.append(("mean cosine", f"{self.cosines[0] / self.cosines[2]:.5f}"))
            summary.append(("least cosine", f"{self.cosines[1]:.5f}"))
        sections = [Section(f"{self.answer} compared", ("", ""), summary)]
        if self.right:
            sections.append(self._judgement())
        sections.append(self._costs())
        moved = [(key, rows) for key, rows in sorted(self.statuses.items()) if key[0] != key[1]]
        if moved:
            rows = [(one, other, f"{count:,}") for (one, other), count in moved]
            sections.append(Section("status", ("first", "second", "rows"), rows))
        if self.shown_rows:
            sections.append(self._rows())
        return sections

    def _judgement(self) -> Section:
        total, p_value = self.right.total(), self.p_value or 0.0
        first = share(self.right[True, True] + self.right[True, False], total)
        second = share(self.right[True, True] + self.right[False, True], total)
        verdict = (
            "The difference is no larger than chance makes it"
            if p_value >= SIGNIFICANT
            else f"The {'second' if (second.value or 0) > (first.value or 0) else 'first'} is better, and not by chance"
        )
        few = f" {total} rows are a small sample." if first.is_of_few else ""
        return Section(
            "right answers",
            ("", "first", "second"),
            [
                ("share", str(first), str(second)),
                ("right in this one only", f"{self.right[True, False]:,}", f"{self.right[False, True]:,}"),
            ],
            [f"{verdict} (McNemar's exact test: p = {p_value:.3g}).{few}"],
        )

    def _costs(self) -> Section:
        costs = [_cost(self.first), _cost(self.second)]
        rows = [
            (
                name.replace("_", " "),
                *(f"{cost[name]:,}" if isinstance(cost[name], (int, float)) else str(cost[name]) for cost in costs),
            )
            for name in costs[0]
        ]
        return Section("what they cost", ("", "first", "second"), rows)

    def _rows(self) -> Section:
        with_expected = any(row.expected is not None for row in self.shown_rows)
        rows = [
            (
                f"{row.partition} {row.row}".strip(),
                row.inputs,
                row.first,
                row.second,
                *([row.expected or ""] if with_expected else []),
            )
            for row in self.shown_rows
        ]
        left = self.changed - len(rows)
        columns = ("row", "input", "first", "second", *(["expected"] if with_expected else []))
        return Section("changed rows", columns, rows, [f"and {left:,} more"] if left else [])


def compare(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    expected: str | None = None,
    answer: str | None = None,
    prefixes: tuple[str | None, str | None] = (None, None),
    resolver: Resolver = resolve_location,
) -> Comparison:
    """Compare two outputs of the same rows, in one pass over both.

    Args:
        first, second: published files, or directories of them.
        expected: an input column that holds what is expected of the answer.
        answer: which answer is held against it, where there are several.
        prefixes: of the answers' columns in each; ``None``: of those that were added last.
        resolver: opens paths and URLs.

    Raises:
        ConfigurationError: the outputs cannot be compared.
        MissingColumnError: there is no such column.
        InputNotFoundError, InputUnreadableError: there is no such output, or the rows are not the same.
    """
    pairs = open_pairs(first, second, prefixes=prefixes, resolver=resolver)
    judged = _judged_answer(pairs[0].first, expected, answer)
    result = Comparison(
        merge_manifests([pair.first.manifest for pair in pairs]),
        merge_manifests([pair.second.manifest for pair in pairs]),
        ", ".join(pairs[0].first.answer_names),
    )
    for pair in pairs:
        _add_pair(result, pair, expected, judged)
    return result


def _judged_answer(file: OutputFile, expected: str | None, answer: str | None) -> str | None:
    if expected is None:
        return None
    names = file.answer_names
    if answer is None and len(names) > 1:
        raise ConfigurationError(
            f"The outputs have several answers ({', '.join(names)}): say which {expected!r} is of."
        )
    if (chosen := answer or names[0]) not in names or chosen in ("embedding", "chunks"):
        raise ConfigurationError(f"The outputs have no answer {chosen!r} that could be right or wrong.")
    return chosen


def _add_pair(result: Comparison, pair: FilePair, expected: str | None, judged: str | None) -> None:
    answers = pair.first.answer_names
    wanted = [[file.prefix + name for name in (*answers, "status", "error_type")] for file in (pair.first, pair.second)]
    inputs = _telling_inputs(pair, expected)
    names = [*wanted[0], *inputs, *([expected] if expected else [])]
    for start, one, other in pair.batches(names, wanted[1]):
        result.rows += one.num_rows
        sides = [_outcomes(batch, file, answers) for batch, file in ((one, pair.first), (other, pair.second))]
        truths = one.column(expected).to_pylist() if expected else [None] * one.num_rows
        for row, (left, right) in enumerate(zip(*sides, strict=True)):
            result.statuses[left.status, right.status] += 1
            if judged is not None and truths[row] is not None:
                place = answers.index(judged)
                result.right[left.is_right(place, truths[row]), right.is_right(place, truths[row])] += 1
            if _same(result, answers, left, right):
                continue
            result.changed += 1
            if len(result.shown_rows) < MOST_SHOWN_ROWS:
                told = [shown(one.column(name)[row].as_py()) for name in inputs]
                result.shown_rows.append(
                    ChangedRow(
                        pair.first.relative,
                        start + row,
                        " | ".join(told),
                        left.text(answers),
                        right.text(answers),
                        None if truths[row] is None else shown(truths[row]),
                    )
                )


@dataclass(frozen=True)
class _Outcome:
    status: str
    error_type: str | None
    values: tuple[Any, ...]

    def is_right(self, place: int, truth: Any) -> bool:
        value = self.values[place]
        if self.status != "success" or value is None:
            return False
        if isinstance(value, str) and isinstance(truth, str):
            return normalized(value) == normalized(truth)
        return as_label(value) == as_label(truth) if isinstance(value, bool) else bool(value == truth)

    def text(self, answers: Sequence[str]) -> str:
        if self.status != "success":
            return f"{self.status}: {self.error_type}"
        if len(answers) == 1:
            value = self.values[0]
            return shown(value if not isinstance(value, list) else f"vector of {len(value)} numbers")
        return shown(", ".join(f"{name}: {value}" for name, value in zip(answers, self.values, strict=True)))


def _outcomes(batch: pa.RecordBatch, file: OutputFile, answers: Sequence[str]) -> list[_Outcome]:
    columns = [batch.column(file.prefix + name).to_pylist() for name in answers]
    statuses = batch.column(file.prefix + "status").to_pylist()
    error_types = batch.column(file.prefix + "error_type").to_pylist()
    values = zip(*columns, strict=True)
    return [_Outcome(*one) for one in zip(statuses, error_types, values, strict=True)]


def _same(result: Comparison, answers: Sequence[str], left: _Outcome, right: _Outcome) -> bool:
    if (left.status, left.error_type) != (right.status, right.error_type):
        return False
    if answers != ("embedding",) or left.values[0] is None or right.values[0] is None:
        return left.values == right.values
    cosine = _cosine(left.values[0], right.values[0])
    total, least, count = result.cosines
    result.cosines = (total + cosine, min(least, cosine), count + 1)
    return cosine >= SAME_COSINE


def _cosine(first: Sequence[float], second: Sequence[float]) -> float:
    if len(first) != len(second):
        return 0.0
    a, b = np.array(first, np.float64), np.array(second, np.float64)
    length = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / length if length else 0.0


def _telling_inputs(pair: FilePair, expected: str | None) -> list[str]:
    """Input columns to show beside a changed row: texts first."""
    names = [name for name in pair.first.input_names if name != expected]
    texts = [name for name in names if is_text(pair.first.schema.field(name).type)]
    return (texts or names)[:MOST_SHOWN_INPUTS]


def _cost(manifest: PartitionManifest) -> Mapping[str, Any]:
    return {
        "model": manifest.model,
        "engine": manifest.engine,
        "failed_rows": manifest.failed_rows,
        "prompt_tokens": manifest.prompt_tokens,
        "completion_tokens": manifest.completion_tokens,
        "engine_seconds": round(manifest.seconds.engine, 1),
        "rows_per_second": round(manifest.rows_per_second, 1),
    }
