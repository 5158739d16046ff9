"""What a whole run will take, told from a sample of its rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_mullama.evaluation.intervals import Figure, mean, share
from airflow_mullama.evaluation.outputs import OutputFile
from airflow_mullama.evaluation.sections import Section
from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.progress import Snapshot, format_seconds

# While the first rows come the engine is not yet full, and while the last come no longer: both are left out.
STEADY_FROM, STEADY_TO = 0.1, 0.9
BLOCKS = 10


@dataclass
class Pace:
    """A listener of progress that remembers when how many rows were done.

    Args:
        clock: gives seconds, and never goes back.
    """

    clock: Callable[[], float] = time.monotonic
    marks: list[tuple[float, int]] = field(default_factory=list)

    def announce(self, message: str) -> None:
        """Of no interest."""

    def progress(self, snapshot: Snapshot) -> None:
        """Of no interest: :meth:`advance` says more."""

    def advance(self, snapshot: Snapshot) -> None:
        """Rows are done."""
        done = snapshot.whole.done if snapshot.whole else snapshot.done
        if not self.marks or done > self.marks[-1][1]:
            self.marks.append((self.clock(), done))

    def seconds_per_row(self) -> list[float]:
        """Of blocks of rows, one after the other, while the engine was full."""
        if len(self.marks) < 2:
            return []
        total = self.marks[-1][1]
        steady = [mark for mark in self.marks if STEADY_FROM * total <= mark[1] <= STEADY_TO * total]
        if len(steady) < 2:
            steady = self.marks
        least = max(1, (steady[-1][1] - steady[0][1]) // BLOCKS)
        paces = []
        since, rows = steady[0]
        for at, done in steady[1:]:
            if done - rows >= least:
                paces.append((at - since) / (done - rows))
                since, rows = at, done
        return paces


@dataclass(frozen=True)
class Forecast:
    """What all rows will take.

    Args:
        rows: all of them.
        sampled: how many were tried.
        prompt_tokens, completion_tokens: of all rows.
        seconds: of the engine, for all rows, on this machine; without an interval where the sample came back at once.
        load_seconds: until it is ready, besides.
        failed: the share of rows that will fail.
        within_budget: rows that the job's budget pays for, about; ``None`` without a budget.
    """

    rows: int
    sampled: int
    prompt_tokens: Figure
    completion_tokens: Figure
    seconds: Figure
    load_seconds: float
    failed: Figure
    within_budget: int | None = None

    def with_budget(self, max_seconds: float | None, max_tokens_total: int | None) -> Forecast:
        """The same, held against what a job may spend."""
        tokens = (self.prompt_tokens.value or 0.0) + (self.completion_tokens.value or 0.0)
        spent = [(max_seconds, self.seconds.value or 0.0), (max_tokens_total, tokens)]
        shares = [1.0 if whole <= limit else limit / whole for limit, whole in spent if limit is not None]
        return replace(self, within_budget=int(self.rows * min(shares))) if shares else self

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "rows": self.rows,
            "sampled_rows": self.sampled,
            "prompt_tokens": self.prompt_tokens.to_json(),
            "completion_tokens": self.completion_tokens.to_json(),
            "engine_seconds": self.seconds.to_json(),
            "load_seconds": round(self.load_seconds, 1),
            "failed_share": self.failed.to_json(),
            **({} if self.within_budget is None else {"rows_within_budget": self.within_budget}),
        }

    def section(self) -> Section:
        """As a table."""
        rows = [
            ("rows", f"{self.rows:,}"),
            ("prompt tokens", _range(self.prompt_tokens, "{:,.0f}".format)),
            ("completion tokens", _range(self.completion_tokens, "{:,.0f}".format)),
            ("time of the engine", _range(self.seconds, format_seconds)),
            ("and to load the model", format_seconds(self.load_seconds)),
            ("rows that fail", _range(self.failed, lambda share: f"{share:.1%}")),
        ]
        if self.within_budget is not None:
            rows.append(("rows within the budget", f"about {self.within_budget:,}"))
        note = f"From {self.sampled:,} rows, on this machine, by one task; the intervals are those of 95 %."
        notes = [note]
        if self.seconds.value is not None and self.seconds.low is None:
            notes.append("The sample came back at once, so that nothing is known of how much its pace varies.")
        return Section("forecast for all rows", ("", ""), rows, notes)


def forecast(
    files: Sequence[OutputFile], manifest: PartitionManifest, pace: Pace, rows: int, load_seconds: float
) -> Forecast:
    """From the output of a sample to all rows.

    Args:
        files: the sample's output.
        manifest: of the sample's run, which must have computed it.
        pace: that listened to it.
        rows: of the whole input.
        load_seconds: that loading the model took.
    """
    tokens: dict[str, list[float]] = {"prompt_tokens": [], "completion_tokens": []}
    for file in files:
        names = [name for name in tokens if file.has(name)]
        for batch in file.batches([file.prefix + name for name in names]):
            for name in names:
                tokens[name] += [float(value or 0) for value in batch.column(file.prefix + name).to_pylist()]
    # A sample that fits into one window comes back at once.
    paces = pace.seconds_per_row() or [manifest.seconds.engine / max(1, manifest.rows)]
    return Forecast(
        rows=rows,
        sampled=manifest.rows,
        prompt_tokens=_times(mean(tokens["prompt_tokens"]), rows),
        completion_tokens=_times(mean(tokens["completion_tokens"]), rows),
        seconds=_times(mean(paces) if len(paces) > 1 else Figure(paces[0], None, None, 1), rows),
        load_seconds=load_seconds,
        failed=share(manifest.failed_rows, manifest.rows),
    )


def _times(figure: Figure, rows: int) -> Figure:
    value, low, high = (
        None if one is None else max(0.0, one) * rows for one in (figure.value, figure.low, figure.high)
    )
    return Figure(value, low, high, figure.rows)


def _range(figure: Figure, written: Callable[[float], str]) -> str:
    if figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return written(figure.value)
    return f"{written(figure.value)} ({written(figure.low)} to {written(figure.high)})"
