"""The command ``airflow-mullama report``."""

from __future__ import annotations

import argparse

from rich.console import Console

from airflow_mullama.commands.exit_status import ExitStatus
from airflow_mullama.commands.sections import add_display_arguments, show_findings


def add_report_arguments(report: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    report.add_argument("output", metavar="OUTPUT", help="an output: a file, a directory or a table, local or a URL")
    report.add_argument("--output-prefix", metavar="TEXT", help="of the added columns (that of those added last)")
    add_display_arguments(report)


def run_report(parsed: argparse.Namespace, console: Console) -> int:
    """Do it; the exit status."""
    from airflow_mullama.evaluation.report import report

    found = report(parsed.output, output_prefix=parsed.output_prefix)
    show_findings([found], f"Report on {found.output}", parsed)
    return ExitStatus.DONE
