"""The command ``airflow-mullama evaluate``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from rich.console import Console

from airflow_mullama.commands.exit_status import ExitStatus
from airflow_mullama.commands.sections import Findings, add_display_arguments, show_findings
from airflow_mullama.errors import ConfigurationError


def add_evaluate_arguments(evaluate: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    evaluate.add_argument("output", metavar="OUTPUT", help="an output: a file, a directory or a table, local or a URL")
    evaluate.add_argument(
        "--expected",
        action="append",
        default=[],
        metavar="COLUMN",
        help="the input column that holds what is expected; of several answers ANSWER=COLUMN, repeatable",
    )
    evaluate.add_argument("--second-pass", metavar="OUTPUT", help="the same rows judged again: do the two agree?")
    evaluate.add_argument("--judgement", metavar="ANSWER", help="the answer that both passes are compared by")
    evaluate.add_argument("--output-prefix", metavar="TEXT", help="of the added columns (that of those added last)")
    add_display_arguments(evaluate)


def run_evaluate(parsed: argparse.Namespace, console: Console) -> int:
    """Do it; the exit status."""
    from airflow_mullama.evaluation.agreement import agree
    from airflow_mullama.evaluation.evaluate import evaluate

    if not parsed.expected and not parsed.second_pass:
        raise ConfigurationError("There is nothing to hold the answers against: give --expected or --second-pass.")
    if (parsed.second_pass is None) != (parsed.judgement is None):
        raise ConfigurationError("--second-pass and --judgement go together: give both, or none.")
    findings: list[Findings] = []
    if parsed.expected:
        expected = columns_by_answer(parsed.expected)
        findings.append(evaluate(parsed.output, expected, output_prefix=parsed.output_prefix))
    if parsed.second_pass:
        prefixes = (parsed.output_prefix, parsed.output_prefix)
        findings.append(agree(parsed.output, parsed.second_pass, parsed.judgement, prefixes=prefixes))
    show_findings(findings, f"Evaluation of {parsed.output}", parsed)
    return ExitStatus.DONE


def columns_by_answer(texts: Sequence[str]) -> str | Mapping[str, str]:
    """``COLUMN`` alone, or ``ANSWER=COLUMN`` for each of several answers.

    Raises:
        ConfigurationError: both, or an answer twice.
    """
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    columns: dict[str, str] = {}
    for text in texts:
        answer, equals, column = text.partition("=")
        if not (answer and equals and column):
            raise ConfigurationError(f"--expected {text!r} does not say which answer it is of: write ANSWER=COLUMN.")
        if answer in columns:
            raise ConfigurationError(f"--expected names the answer {answer!r} twice; give it one column.")
        columns[answer] = column
    return columns
