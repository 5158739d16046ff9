"""What the demo shows when it is done: rows of output beside their ticket, and the figures."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from airflow_mullama.manifest import FOOTER_KEY, summarize_manifests
from airflow_mullama.rows import STATUS_OF_ERROR_TYPE, Status

UP_TO_DATE: Final = "up_to_date"
_TEXT_LENGTH = 96
_ANSWER_WIDTH = 36
_GOOD_SAMPLES = 5
_NEIGHBOURS = 3
# Two texts that share more of their words than this look alike to anybody; seeing the others takes a model.
_MOST_SHARED_WORDS = 0.35
_QUERY_CANDIDATES = 400


@dataclass(frozen=True)
class RunResult:
    """What one DAG run left.

    Args:
        dag_id: its DAG.
        task: ``generate`` or ``embed``.
        manifests: of its partitions, as the tasks returned them.
        seconds: from the trigger to its end.
    """

    dag_id: str
    task: str
    manifests: Sequence[Mapping[str, Any]]
    seconds: float

    @property
    def up_to_date(self) -> int:
        """Partitions that needed nothing."""
        return sum(manifest["skipped"] == UP_TO_DATE for manifest in self.manifests)

    def summary(self) -> dict[str, Any]:
        """The sum over the partitions; one that needed nothing counts as it was computed earlier."""
        return summarize_manifests([stored_manifest(manifest) for manifest in self.manifests])


def stored_manifest(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The manifest of the run that computed a partition, from the footer of the partition's output."""
    if manifest["skipped"] != UP_TO_DATE:
        return manifest
    stored: dict[str, Any] = json.loads(pq.read_metadata(manifest["output_path"]).metadata[FOOTER_KEY])
    return stored


def show_samples(console: Console, result: RunResult) -> None:
    """Show some tickets with what the model answered, and one for each kind of row without an answer."""
    columns = ["text", "response", "status", "error_type", "error"]
    table = _read(result, columns)
    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    grid.add_column("ticket", max_width=max(24, console.width - _ANSWER_WIDTH - 4))
    grid.add_column("answer", max_width=_ANSWER_WIDTH)
    for row in _sample_rows(table):
        if row["status"] == "success":
            answer = _answer(row["response"])
        else:
            answer = Text(f"{row['status']}: {row['error_type']}", "yellow")
        grid.add_row(_ticket(row["text"]), answer)
    console.print(grid)


def show_categories(console: Console, result: RunResult) -> None:
    """Show how many tickets have each category: a count over a typed column, as any reader of Parquet can make it."""
    counts = pc.value_counts(_read(result, ["category"])["category"].cast(pa.string())).to_pylist()
    ordered = sorted((item for item in counts if item["values"] is not None), key=lambda item: -item["counts"])
    line = ", ".join(f"{item['values']} {item['counts']:,}" for item in ordered)
    console.print(f"Tickets by category: {line}", highlight=False, markup=False)


def show_neighbours(console: Console, result: RunResult) -> None:
    """Show two tickets with those closest to them in meaning."""
    table = _read(result, ["text", "embedding", "status"])
    table = table.filter(pc.equal(table["status"], "success"))
    texts: list[str] = table["text"].to_pylist()
    vectors = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    grid.add_column("cosine", justify="right")
    grid.add_column("ticket")
    for query, neighbours in find_neighbours(texts, vectors.reshape(len(texts), -1)):
        grid.add_row("", _ticket(texts[query], style="bold"))
        for neighbour, cosine in neighbours:
            grid.add_row(f"{cosine:.2f}", _ticket(texts[neighbour]))
        grid.add_section()
    console.print(grid)


def show_figures(console: Console, results: Sequence[RunResult]) -> None:
    """Show rows, failures by type and rates, a column for each run."""
    summaries = [result.summary() for result in results]
    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    grid.add_column("")
    for result in results:
        grid.add_column(result.dag_id, justify="right")
    for label, values in _figures(results, summaries):
        if any(values):
            grid.add_row(label, *values)
    console.print(grid)
    for result, summary in zip(results, summaries, strict=True):
        if result.up_to_date == len(result.manifests):
            console.print(
                f"{result.dag_id}: all {result.up_to_date} partitions are up to date, so no model was loaded and "
                f"nothing was computed or written. The figures are from {_day_and_time(summary['ended_at'])}."
            )
        elif result.up_to_date:
            console.print(
                f"{result.dag_id}: {result.up_to_date} of {len(result.manifests)} partitions were up to date and cost "
                "nothing; their figures are those of the run that computed them."
            )


def find_neighbours(
    texts: Sequence[str], vectors: npt.NDArray[np.float32]
) -> Iterator[tuple[int, list[tuple[int, float]]]]:
    """Yield two texts, unlike one another, each with its nearest neighbours that say it in other words.

    Args:
        texts: the texts.
        vectors: their embeddings, normalized, a row for each.
    """
    words = [frozenset(re.findall(r"\w+", text.lower())) for text in texts]
    candidates = [number for number, text in enumerate(texts) if 40 <= len(text) <= _TEXT_LENGTH]
    found: list[tuple[float, int, list[tuple[int, float]]]] = []
    for query in candidates[:_QUERY_CANDIDATES]:
        similarities = vectors @ vectors[query]
        neighbours: list[int] = []
        for number in np.argsort(-similarities)[:200].tolist():
            if len(neighbours) == _NEIGHBOURS:
                break
            if len(texts[number]) > _TEXT_LENGTH:
                continue  # what makes it similar might be cut off
            # Nor may two neighbours be nearly the same text.
            if all(_shared_words(words[number], words[other]) < _MOST_SHARED_WORDS for other in (query, *neighbours)):
                neighbours.append(number)
        if len(neighbours) == _NEIGHBOURS:
            pairs = [(number, float(similarities[number])) for number in neighbours]
            found.append((pairs[-1][1], query, pairs))
    found.sort(key=lambda one: -one[0])
    for _, query, pairs in found[:1]:
        yield query, pairs
    for _, other, pairs in found[1:]:
        if vectors[other] @ vectors[found[0][1]] < 0.2:
            yield other, pairs
            return


def shorten(text: str, width: int) -> str:
    """A text on one line, cut at ``width`` characters."""
    line = " ".join(text[: 4 * width].split())
    line = "".join(character for character in line if character.isprintable() or character in "\u200d\ufe0f")
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def _read(result: RunResult, columns: list[str]) -> pa.Table:
    tables = [
        pq.ParquetFile(Path(manifest["output_path"])).read(columns=columns)
        for manifest in sorted(result.manifests, key=lambda manifest: str(manifest["output_path"]))
    ]
    return pa.concat_tables(tables)


def _sample_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Tickets with different answers, one in another script, and one row of each error type."""
    samples: list[dict[str, Any]] = []
    categories: set[str] = set()
    others: set[tuple[str, ...]] = set()
    other_script: dict[str, Any] | None = None
    errors: dict[str, dict[str, Any]] = {}
    for batch in table.to_batches(max_chunksize=500):
        for row in batch.to_pylist():
            if row["status"] != "success":
                errors.setdefault(row["error_type"], row)
            elif not row["text"].isascii() and sum(character > "\u02ff" for character in row["text"]) > 12:
                other_script = other_script or row
            elif len(samples) < _GOOD_SAMPLES and 30 < len(row["text"]) <= _TEXT_LENGTH:
                category, *other = map(str, _fields(row["response"]).values() or [row["response"]])
                if category not in categories and (not other or tuple(other) not in others):
                    categories.add(category)
                    others.add(tuple(other))
                    samples.append(row)
    return [*samples, *([other_script] if other_script else []), *errors.values()]


def _fields(response: str) -> Mapping[str, Any]:
    try:
        value = json.loads(response)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _answer(response: str) -> Text:
    fields = _fields(response)
    if not fields:
        return Text(shorten(response, 40))
    return Text(" · ".join(str(value) for value in fields.values()), "green")


def _ticket(text: str | None, style: str = "") -> Text:
    if text is None:
        return Text("null", "dim italic")
    if not text.strip():
        return Text(repr(text), "dim italic")
    if (size := len(text.encode())) > 2_000:
        size_note = f" ({size / 1024:.0f} KB)"
        return Text(shorten(text, _TEXT_LENGTH - len(size_note)) + size_note, style)
    return Text(shorten(text, _TEXT_LENGTH), style)


def _shared_words(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / max(1, len(first | second))


def _figures(results: Sequence[RunResult], summaries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Label and values of each line; an empty value where a run has nothing to say."""

    def counts(kind: str, name: str) -> list[str]:
        return [f"{summary[kind][name]:,}" if summary[kind].get(name) else "" for summary in summaries]

    yield "model", [summary["model"] for summary in summaries]
    yield "partitions", [f"{summary['partition_count']:,}" for summary in summaries]
    yield "  up to date", [f"{result.up_to_date:,}" if result.up_to_date else "" for result in results]
    yield "rows", [f"{summary['rows']:,}" for summary in summaries]
    yield "  success", counts("status_counts", Status.SUCCESS.value)
    error_types = sorted({error_type for summary in summaries for error_type in summary["error_types"]})
    for status in (Status.FAILED, Status.INVALID_OUTPUT, Status.SKIPPED):
        yield f"  {status.value}", counts("status_counts", status.value)
        for error_type in error_types:
            if STATUS_OF_ERROR_TYPE.get(error_type) == status.value:
                yield f"    {error_type}", counts("error_types", error_type)
    yield "rows/s", [f"{summary['rows_per_second']:,.0f}" for summary in summaries]
    yield "tokens/s", [f"{summary['tokens_per_second']:,.0f}" for summary in summaries]
    yield "engine seconds", [f"{summary['seconds']['engine']:,.1f}" for summary in summaries]
    yield "written", [_megabytes(result) for result in results]


def _megabytes(result: RunResult) -> str:
    size = sum(Path(manifest["output_path"]).stat().st_size for manifest in result.manifests)
    return f"{size / 1e6:.1f} MB"


def _day_and_time(value: str) -> str:
    return datetime.datetime.fromisoformat(value).astimezone().strftime("%Y-%m-%d %H:%M")
