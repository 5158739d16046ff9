"""The command ``airflow-mullama preview``."""

from __future__ import annotations

import argparse
import tempfile
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from airflow_mullama.commands.exit_status import ExitStatus
from airflow_mullama.commands.generate import add_generate_arguments, generate_job
from airflow_mullama.commands.job_arguments import whole_number
from airflow_mullama.commands.sections import show_findings
from airflow_mullama.commands.stopping import stop_on_signals
from airflow_mullama.evaluation.sections import Section, shown

if TYPE_CHECKING:
    from airflow_mullama.evaluation.forecast import Forecast
    from airflow_mullama.run import ShownRow

SAMPLED_ROWS = 200


def add_preview_arguments(preview: argparse.ArgumentParser) -> None:
    """The command's arguments: those of ``generate``, but for the output."""
    preview.add_argument("--rows", type=whole_number(1, 100), default=5, metavar="N", help="rows to show (5)")
    preview.add_argument("--keep", metavar="OUTPUT", help="keep the sample's output here, for --reuse-from")
    preview.add_argument("--html", metavar="FILE", help="write what is shown as one HTML file as well")
    add_generate_arguments(preview, output=False)


class Preview:
    """Rows with their prompts, and what all rows will take.

    Args:
        rows: that are shown.
        forecast: for all rows.
    """

    def __init__(self, rows: list[ShownRow], forecast: Forecast) -> None:
        self._rows = rows
        self._forecast = forecast

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"shown_rows": [vars(row) for row in self._rows], "forecast": self._forecast.to_json()}

    def sections(self) -> list[Section]:
        """As tables."""
        return [*map(_row_section, self._rows), self._forecast.section()]


def run_preview(parsed: argparse.Namespace, console: Console) -> int:
    """Do it; the exit status."""
    from airflow_mullama.commands.terminal import TerminalProgress
    from airflow_mullama.evaluation.forecast import Pace, forecast
    from airflow_mullama.evaluation.outputs import open_output
    from airflow_mullama.manifest import merge_manifests
    from airflow_mullama.run import run_job, show_rows
    from airflow_mullama.storage.partitions import discover_partitions
    from airflow_mullama.writer import Writer

    stop = threading.Event()
    stop_on_signals(stop, console)
    whole_job = generate_job(parsed)
    # A budget is for all rows: the forecast tells how far it goes.
    job = replace(whole_job, max_error_ratio=1.0, max_seconds=None, max_tokens_total=None)
    if job.limit is None and job.sample is None:
        job = replace(job, sample=SAMPLED_ROWS)
    inputs = parsed.input[0] if len(parsed.input) == 1 else parsed.input
    with tempfile.TemporaryDirectory(prefix="airflow-mullama-preview-") as scratch:
        output = parsed.keep or scratch
        partitions = discover_partitions(inputs, output)
        total = sum(partition.open(job.schema_drift).rows for partition in partitions)
        pace = Pace()
        with TerminalProgress(console) as progress:
            rows = show_rows(job, partitions[0], parsed.rows, should_stop=stop.is_set, announce=progress.announce)
            writer = Writer(command="airflow-mullama preview")
            run_job(job, inputs, output, listeners=[progress, pace], stop=stop, writer=writer)
        files = open_output(output)
        sampled = merge_manifests([file.manifest for file in files])  # of the run that computed it, if that was earlier
        whole = forecast(files, sampled, pace, total, sampled.seconds.model_load)
        whole = whole.with_budget(whole_job.max_seconds, whole_job.max_tokens_total)
    show_findings([Preview(rows, whole)], f"Preview of {', '.join(parsed.input)}", parsed)
    return ExitStatus.DONE


def _row_section(row: ShownRow) -> Section:
    tokens = "" if row.prompt_tokens is None else f"{row.prompt_tokens:,} tokens"
    context = f"{tokens} of {row.n_ctx:,}" if tokens and row.n_ctx else tokens
    cells = [("prompt", "none" if row.prompt is None else repr(row.prompt)[1:-1][:2000])]
    if context:
        cells.append(("context", context))
    if row.answer is not None:
        cells.append(("answer", shown(row.answer, 500)))
    if row.error is not None:
        cells.append(("error", shown(row.error, 500)))
    return Section(f"row {row.row}", ("", ""), cells)
