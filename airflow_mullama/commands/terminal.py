"""A job in a terminal: its progress, as a bar for people or lines in a file, and what there is to say at its end."""

from __future__ import annotations

import argparse
import json
import threading
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from airflow_mullama.commands.exit_status import ExitStatus
from airflow_mullama.commands.stopping import stop_on_signals
from airflow_mullama.errors import ErrorBudgetExceededError
from airflow_mullama.jobs.job import Job
from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.progress import Snapshot, format_seconds
from airflow_mullama.redaction.foreign_text import printable
from airflow_mullama.row_counts import listed
from airflow_mullama.run import run_job
from airflow_mullama.storage.addresses import shown_address
from airflow_mullama.writer import Writer


class TerminalProgress:
    """Shows one bar per partition, to be used as a context manager around the job.

    Args:
        console: where to write; a console that is not a terminal gets one line now and then instead of a bar.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> TerminalProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def announce(self, message: str) -> None:
        """A step, as a line above the bars."""
        self._progress.console.print(printable(message), style="dim", highlight=False, markup=False, soft_wrap=True)

    def progress(self, snapshot: Snapshot) -> None:
        """The throttled numbers, for output that is not a terminal."""
        if not self._console.is_terminal:
            self._console.print(snapshot.line(), highlight=False, markup=False, soft_wrap=True)

    def advance(self, snapshot: Snapshot) -> None:
        """Move the bar."""
        bar = self._bars.get(snapshot.partition)
        if bar is None:
            name = snapshot.partition.rstrip("/").rsplit("/", 1)[-1]
            bar = self._bars[snapshot.partition] = self._progress.add_task(name, total=snapshot.total, numbers="")
        left = "" if snapshot.eta_seconds is None else f" | ETA {format_seconds(snapshot.eta_seconds)}"
        numbers = (
            f"{snapshot.rows_per_second:.1f} rows/s | {snapshot.tokens_per_second:.0f} tok/s{left} | "
            f"errors {snapshot.errors}"
        )
        self._progress.update(bar, completed=snapshot.done, total=snapshot.total, numbers=numbers)


def run_in_terminal(job: Job, parsed: argparse.Namespace, console: Console) -> int:
    """Run a job as ``generate`` and ``embed`` were asked to; the exit status.

    Raises:
        MullamaError: it failed. Where too many rows did, what was written is shown all the same.
    """
    stop = threading.Event()
    stop_on_signals(stop, console)
    inputs = parsed.input[0] if len(parsed.input) == 1 else parsed.input
    try:
        with TerminalProgress(console) as listener:
            writer = Writer(command=f"airflow-mullama {job.task}")
            manifest = run_job(job, inputs, parsed.output, listeners=[listener], stop=stop, writer=writer)
    except ErrorBudgetExceededError as error:
        if error.manifest is not None:
            _show_manifest(error.manifest, parsed, console)
        raise
    _show_manifest(manifest, parsed, console)
    return ExitStatus.DONE


def _show_manifest(manifest: PartitionManifest, parsed: argparse.Namespace, console: Console) -> None:
    if parsed.json:
        Console().print_json(json.dumps(manifest.to_json()))
    for line in summary_lines(manifest):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def summary_lines(manifest: PartitionManifest) -> list[str]:
    """What a person wants to know of a finished job."""
    lines = [f"{manifest.rows} rows: {listed(manifest.status_counts) or 'none'}"]
    if manifest.error_types:
        lines.append(f"without a result: {listed(manifest.error_types)}")
    if manifest.truncated_rows:
        lines.append(f"cut at the model's limit: {manifest.truncated_rows}")
    if manifest.skipped:
        lines.append("nothing was done: the output is up to date")
    else:
        spared = manifest.resumed_rows + manifest.reused_rows
        kept = f"; {spared} rows were already done" if spared else ""
        if manifest.deduplicated_rows:
            kept += f"; {manifest.deduplicated_rows} rows asked the same as others and were not computed twice"
        rates = ""
        if manifest.computed_rows:
            rates = f"{manifest.rows_per_second:.1f} rows/s, {manifest.tokens_per_second:.0f} tokens/s, "
        lines.append(f"{rates}{manifest.seconds.total:.1f} s in all{kept}")
    lines.append(f"output: {shown_address(manifest.output_path)}")
    return lines
