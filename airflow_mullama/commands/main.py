"""``airflow-mullama``: its commands, and how their errors end it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from airflow_mullama.commands.compare import add_compare_arguments, run_compare
from airflow_mullama.commands.embed import add_embed_arguments, run_embed
from airflow_mullama.commands.evaluate import add_evaluate_arguments, run_evaluate
from airflow_mullama.commands.exit_status import ExitStatus
from airflow_mullama.commands.generate import add_generate_arguments, run_generate
from airflow_mullama.commands.job_arguments import whole_number
from airflow_mullama.commands.preview import add_preview_arguments, run_preview
from airflow_mullama.commands.report import add_report_arguments, run_report
from airflow_mullama.commands.tune import add_tune_arguments, run_tune
from airflow_mullama.engines.options import parse_engine_options
from airflow_mullama.errors import (
    BudgetSpentError,
    ConfigurationError,
    ErrorBudgetExceededError,
    JobStoppedError,
    MullamaError,
)
from airflow_mullama.version import __version__

COMMANDS: Sequence[tuple[str, Callable[[argparse.ArgumentParser], None], Callable[..., int], str]] = (
    ("generate", add_generate_arguments, run_generate, "add a column of generated text"),
    ("embed", add_embed_arguments, run_embed, "add a column of embeddings"),
    ("tune", add_tune_arguments, run_tune, "try engine options on a sample of your rows and print the fastest"),
    (
        "preview",
        add_preview_arguments,
        run_preview,
        "show prompts and answers of a few rows, and what all rows will take",
    ),
    ("report", add_report_arguments, run_report, "say what an output holds: statuses, errors, lengths, labels, rows"),
    (
        "evaluate",
        add_evaluate_arguments,
        run_evaluate,
        "hold the answers of an output against what was expected",
    ),
    ("compare", add_compare_arguments, run_compare, "compare two outputs of the same rows"),
)
"""Each command's name, its arguments, what runs it, and what it does."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its :class:`airflow_mullama.commands.exit_status.ExitStatus`."""
    parsed = build_parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        sys.exit(parsed.run(parsed, console))
    except ErrorBudgetExceededError as error:
        _show_error(console, error)
        sys.exit(ExitStatus.ERROR_BUDGET)
    except BudgetSpentError as error:
        console.print(str(error), highlight=False, markup=False, soft_wrap=True)
        sys.exit(ExitStatus.BUDGET_SPENT)
    except JobStoppedError as error:
        console.print(str(error), highlight=False, markup=False, soft_wrap=True)
        sys.exit(ExitStatus.STOPPED)
    except ConfigurationError as error:
        _show_error(console, error)
        sys.exit(ExitStatus.USAGE)
    except MullamaError as error:
        _show_error(console, error)
        sys.exit(ExitStatus.FAILED)


def _show_error(console: Console, error: Exception) -> None:
    console.print("[bold red]error:[/] ", end="")
    console.print(str(error), highlight=False, markup=False, soft_wrap=True)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="airflow-mullama", description="LLM text and embeddings next to your Parquet rows."
    )
    parser.add_argument("--version", action="version", version=f"airflow-mullama {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    for name, add_arguments, run, words in COMMANDS:
        command = commands.add_parser(name, help=words)
        add_arguments(command)
        command.set_defaults(run=run)

    demo = commands.add_parser("demo", help="run the whole pipeline in Airflow on small real models")
    demo.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="where lake, outputs and Airflow's files lie (.demo, or the cache)",
    )
    demo.add_argument("--rows", type=whole_number(140, 10_000_000), metavar="N", help="tickets in the lake (3000)")
    demo.add_argument("--ui", action="store_true", help="open the demo's Airflow UI and keep it running")
    demo.add_argument("--port", type=whole_number(1, 65_535), metavar="PORT", help="of the UI (8080, or a free one)")
    demo.set_defaults(run=_demo)

    doctor = commands.add_parser("doctor", help="say what is installed and whether a model loads and answers")
    doctor.add_argument("--model", metavar="MODEL", help="also load this model and let it answer")
    doctor.add_argument("--engine", default="auto", metavar="ENGINE", help="with this engine")
    doctor.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="an engine option")
    doctor.set_defaults(run=_doctor)
    return parser


def _demo(parsed: argparse.Namespace, console: Console) -> int:
    from airflow_mullama.demo.run import run_demo

    return int(run_demo(parsed.directory, ui=parsed.ui, port=parsed.port, rows=parsed.rows))


def _doctor(parsed: argparse.Namespace, console: Console) -> int:
    from airflow_mullama.commands.doctor import examine

    return examine(Console(), parsed.model, parsed.engine, parse_engine_options(parsed.option))


if __name__ == "__main__":
    main()
