"""Progress in a terminal: a bar for people, plain lines where output goes to a file."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from airflow_mullama.progress import Snapshot, format_seconds


class TerminalListener:
    """Shows one bar per partition, to be used as a context manager around the job.

    Args:
        console: where to write; a console that is no terminal gets one line now and then instead of a bar.
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

    def __enter__(self) -> TerminalListener:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def announce(self, message: str) -> None:
        """A step, as a line above the bars."""
        self._progress.console.print(message, style="dim", highlight=False, markup=False, soft_wrap=True)

    def progress(self, snapshot: Snapshot) -> None:
        """The throttled numbers, for output that is no terminal."""
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
