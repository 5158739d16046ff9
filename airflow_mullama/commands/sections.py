"""Tables of :mod:`airflow_mullama.evaluation` in a terminal, as JSON, and as one HTML file."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from airflow_mullama.errors import OutputNotWritableError
from airflow_mullama.evaluation.page import html_page
from airflow_mullama.evaluation.sections import Section
from airflow_mullama.redaction.foreign_text import printable


class Findings(Protocol):
    """What an evaluation, a comparison and a report have in common."""

    def to_json(self) -> dict[str, Any]:
        """As JSON."""

    def sections(self) -> list[Section]:
        """As tables."""


def add_display_arguments(parser: argparse.ArgumentParser) -> None:
    """How the findings are shown."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON on standard output")
    parser.add_argument("--html", metavar="FILE", help="write them as one HTML file as well")


def show_findings(findings: Sequence[Findings], title: str, parsed: argparse.Namespace) -> None:
    """Show findings as they were asked for.

    Raises:
        OutputNotWritableError: the HTML file cannot be written.
    """
    sections = [section for one in findings for section in one.sections()]
    if parsed.html:
        _write(parsed.html, html_page(title, "Made by airflow-mullama.", sections))
    if parsed.json:
        merged: dict[str, Any] = {}
        for one in findings:
            merged.update(one.to_json() if len(findings) == 1 else {type(one).__name__.lower(): one.to_json()})
        Console(soft_wrap=True).print_json(json.dumps(merged))
    else:
        console = Console()
        for section in sections:
            _show(console, section)
    if parsed.html:
        Console(stderr=True).print(f"page: {parsed.html}", highlight=False, markup=False, soft_wrap=True)


def _show(console: Console, section: Section) -> None:
    console.print(Text(printable(section.title), "bold"), soft_wrap=True)
    if section.rows:
        grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_header=any(section.columns))
        for column in section.columns:
            grid.add_column(printable(column), overflow="fold")
        for row in section.rows:
            grid.add_row(*(Text(printable(cell)) for cell in row))
        console.print(grid)
    for note in section.notes:
        console.print(Text(printable(note), "dim"), soft_wrap=True)


def _write(path: str, page: str) -> None:
    temporary = Path(f"{path}.{os.getpid()}.part")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OutputNotWritableError(f"The page {path!r} cannot be written: {error}; give another --html.") from error
