"""What an output holds, from its footers and one pass over its rows."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from airflow_mullama.evaluation.outputs import OutputFile, is_text, open_output
from airflow_mullama.evaluation.scores import as_label
from airflow_mullama.evaluation.sections import Section, percent, shown
from airflow_mullama.manifest import PartitionManifest, merge_manifests
from airflow_mullama.storage.filesystems import Resolver, resolve_location

ERROR_EXAMPLES = 3
RANDOM_ROWS = 10
MOST_INPUTS = 3
MOST_LABELS = 50
# Of longer columns a sample drawn evenly: a quantile of it is as good.
MOST_LENGTHS = 100_000
QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class RowView:
    """A row as it is shown.

    Args:
        place: its file and number.
        inputs: some of its input columns.
        outcome: the answer, or why there is none.
    """

    place: str
    inputs: Mapping[str, str]
    outcome: str

    def to_json(self) -> dict[str, Any]:
        """As it is."""
        return {"row": self.place, "inputs": dict(self.inputs), "outcome": self.outcome}


@dataclass
class Lengths:
    """The spread of a figure over rows, from all of them or an even sample."""

    count: int = 0
    total: int = 0
    kept: list[int] = field(default_factory=list)
    _generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, column: pa.Array) -> None:
        """Take a batch of them; nulls are none."""
        for value in column.drop_null().to_pylist():
            self.count += 1
            self.total += value
            if len(self.kept) < MOST_LENGTHS:
                self.kept.append(value)
            elif (place := int(self._generator.integers(self.count))) < MOST_LENGTHS:
                self.kept[place] = value

    def to_json(self) -> dict[str, Any]:
        """Mean and quantiles."""
        least, median, p90, p99, most = (float(value) for value in np.quantile(self.kept, QUANTILES))
        mean = round(self.total / self.count, 1)
        return {"rows": self.count, "mean": mean, "min": least, "median": median, "p90": p90, "p99": p99, "max": most}


@dataclass
class OutputReport:
    """What was found.

    Args:
        output: where.
        manifest: the sum of the accounts of its files.
        error_rows: rows by error type, the first few of each.
        lengths: spreads by what is measured.
        labels: rows by label or value, of each answer that has few of them.
        random_rows: some rows, drawn evenly.
    """

    output: str
    manifest: PartitionManifest
    error_rows: dict[str, list[RowView]] = field(default_factory=dict)
    lengths: dict[str, Lengths] = field(default_factory=dict)
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    random_rows: list[RowView] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        manifest = self.manifest
        return {
            "output": self.output,
            "rows": manifest.rows,
            "status_counts": dict(manifest.status_counts),
            "error_types": dict(manifest.error_types),
            "model": manifest.model,
            "engine": manifest.engine,
            "rows_per_second": round(manifest.rows_per_second, 2),
            "tokens_per_second": round(manifest.tokens_per_second, 2),
            "lengths": {name: lengths.to_json() for name, lengths in self.lengths.items() if lengths.count},
            "labels": {name: dict(counts.most_common()) for name, counts in self.labels.items()},
            "error_rows": {name: [row.to_json() for row in rows] for name, rows in self.error_rows.items()},
            "random_rows": [row.to_json() for row in self.random_rows],
        }

    def sections(self) -> list[Section]:
        """As tables."""
        manifest = self.manifest
        rows = manifest.rows
        about = [
            ("task", manifest.task),
            ("model", manifest.model),
            ("engine", f"{manifest.engine} {manifest.engine_version or ''}".strip()),
            ("rows", f"{rows:,}"),
            *([] if manifest.output_rows is None else [("rows of the output", f"{manifest.output_rows:,}")]),
            *((status, f"{count:,} ({percent(count, rows)})") for status, count in manifest.status_counts.items()),
            ("rows/s", f"{manifest.rows_per_second:,.1f}"),
            ("tokens/s", f"{manifest.tokens_per_second:,.1f}"),
            ("engine seconds", f"{manifest.seconds.engine:,.1f}"),
            ("written", manifest.ended_at),
        ]
        sections = [Section(self.output, ("", ""), about)]
        for name, counts in self.labels.items():
            total = counts.total()
            shares = [
                (shown(label, 60), f"{count:,}", percent(count, total))
                for label, count in counts.most_common(MOST_LABELS)
            ]
            more = len(counts) - len(shares)
            notes = [f"and {more:,} more"] if more else []
            sections.append(Section(name, ("value", "rows", "share"), shares, notes))
        spreads = {name: lengths.to_json() for name, lengths in self.lengths.items() if lengths.count}
        if spreads:
            columns = ("mean", "min", "median", "p90", "p99", "max")
            table = [(name, *(f"{spread[column]:,.0f}" for column in columns)) for name, spread in spreads.items()]
            sections.append(Section("lengths", ("", *columns), table))
        for error_type, views in self.error_rows.items():
            count = manifest.error_types.get(error_type, len(views))
            sections.append(_rows_section(f"{error_type}: {count:,} ({percent(count, rows)})", views))
        if self.random_rows:
            sections.append(_rows_section(f"{len(self.random_rows)} rows at random", self.random_rows))
        return sections


def report(
    output: str | os.PathLike[str], *, output_prefix: str | None = None, resolver: Resolver = resolve_location
) -> OutputReport:
    """Look through an output.

    Args:
        output: a published file, a directory of them, or a table.
        output_prefix: of the added columns; ``None``: of those that were added last.
        resolver: opens paths and URLs.

    Raises:
        InputNotFoundError, InputUnreadableError: there is no such output.
    """
    files = open_output(output, output_prefix=output_prefix, resolver=resolver)
    address = files[0].location.url if len(files) == 1 else os.fspath(output)
    found = OutputReport(address, merge_manifests([file.manifest for file in files]))
    drawn = _drawn_rows([file.manifest.rows_of_output for file in files])
    for file, rows in zip(files, drawn, strict=True):
        _add_file(found, file, rows)
    return found


def _drawn_rows(rows: Sequence[int]) -> list[list[int]]:
    """Numbers of rows to show, of each file, drawn evenly over all of them; the same each time."""
    total = sum(rows)
    chosen = sorted(
        np.random.default_rng(0).choice(total, min(total, RANDOM_ROWS), replace=False).tolist() if total else []
    )
    starts = [0, *itertools.accumulate(rows)]
    return [[row - start for row in chosen if start <= row < stop] for start, stop in itertools.pairwise(starts)]


def _add_file(found: OutputReport, file: OutputFile, drawn: Sequence[int]) -> None:
    inputs = _shown_inputs(file)
    answers = file.answer_names
    closed = [name for name in answers if file.has_few_values(name)]
    lengths = [name for name in ("prompt_tokens", "completion_tokens", "reasoning_tokens") if file.has(name)]
    added = ["status", "error_type", "error", *answers, *lengths]
    start = 0
    for batch in file.batches([*(file.prefix + name for name in added), *inputs]):
        column = {name: batch.column(file.prefix + name) for name in added}
        for name in lengths:
            found.lengths.setdefault(name, Lengths()).add(column[name])
        if "response" in answers:
            characters = found.lengths.setdefault("response characters", Lengths())
            characters.add(pc.utf8_length(column["response"]))
        for name in closed:
            values = column[name].drop_null()
            counts = found.labels.setdefault(name, Counter())
            counts.update(as_label(value) for value in values.to_pylist())
        error_types = column["error_type"]
        for row in np.flatnonzero(error_types.is_valid().to_numpy(zero_copy_only=False)):
            examples = found.error_rows.setdefault(error_types[int(row)].as_py(), [])
            if len(examples) < ERROR_EXAMPLES:
                examples.append(_view(file, batch, start, int(row), inputs, answers))
        for number in drawn:
            if start <= number < start + batch.num_rows:
                found.random_rows.append(_view(file, batch, start, number - start, inputs, answers))
        start += batch.num_rows


def _shown_inputs(file: OutputFile) -> list[str]:
    """Input columns that tell a row apart: texts first, and none that is nested."""
    names = [name for name in file.input_names if not pat.is_nested(file.schema.field(name).type)]
    names.sort(key=lambda name: not is_text(file.schema.field(name).type))
    return names[:MOST_INPUTS]


def _view(
    file: OutputFile, batch: pa.RecordBatch, start: int, row: int, inputs: Sequence[str], answers: Sequence[str]
) -> RowView:
    def value(name: str) -> Any:
        return batch.column(file.prefix + name)[row].as_py()

    if value("status") == "success":
        parts = {name: value(name) for name in answers}
        vectors = {name: f"{len(part)} numbers" for name, part in parts.items() if isinstance(part, list)}
        parts.update(vectors)
        told = next(iter(parts.values())) if len(parts) == 1 else ", ".join(f"{n}: {part}" for n, part in parts.items())
        outcome = shown(told)
    else:
        outcome = shown(f"{value('error_type')}: {value('error')}")
    place = f"{file.relative} {start + row}".strip()
    return RowView(place, {name: shown(batch.column(name)[row].as_py()) for name in inputs}, outcome)


def _rows_section(title: str, views: Sequence[RowView]) -> Section:
    names = list(dict.fromkeys(name for view in views for name in view.inputs))
    rows = [(view.place, *(view.inputs.get(name, "") for name in names), view.outcome) for view in views]
    return Section(title, ("row", *names, "outcome"), rows)
