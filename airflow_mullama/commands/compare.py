"""The command ``airflow-mullama compare``."""

from __future__ import annotations

import argparse

from rich.console import Console

from airflow_mullama.commands.exit_status import ExitStatus
from airflow_mullama.commands.sections import add_display_arguments, show_findings


def add_compare_arguments(compare: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    compare.add_argument("first", metavar="FIRST", help="an output: a file, a directory or a table, local or a URL")
    compare.add_argument("second", metavar="SECOND", help="another output of the same rows")
    compare.add_argument("--expected", metavar="COLUMN", help="the input column that holds what is expected")
    compare.add_argument("--answer", metavar="ANSWER", help="which of several answers is held against it")
    compare.add_argument("--first-prefix", metavar="TEXT", help="of the first's added columns (that of the last)")
    compare.add_argument("--second-prefix", metavar="TEXT", help="of the second's")
    add_display_arguments(compare)


def run_compare(parsed: argparse.Namespace, console: Console) -> int:
    """Do it; the exit status."""
    from airflow_mullama.evaluation.compare import compare

    found = compare(
        parsed.first,
        parsed.second,
        expected=parsed.expected,
        answer=parsed.answer,
        prefixes=(parsed.first_prefix, parsed.second_prefix),
    )
    show_findings([found], f"{parsed.first} and {parsed.second} compared", parsed)
    return ExitStatus.DONE
