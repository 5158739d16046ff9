"""The command ``airflow-mullama tune``: from its arguments to its table."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from airflow_mullama.commands.exit_status import ExitStatus
from airflow_mullama.commands.job_arguments import whole_number
from airflow_mullama.commands.stopping import stop_on_signals
from airflow_mullama.engines.options import parse_engine_options
from airflow_mullama.errors import ConfigurationError


def add_tune_arguments(tune: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    tune.add_argument("input", metavar="INPUT", help="Parquet file or directory, local or a URL; it is only read")
    request = tune.add_mutually_exclusive_group(required=True)
    request.add_argument(
        "--prompt-template", metavar="TEXT", help="generate: text with {column} placeholders, or a .txt or .md file"
    )
    request.add_argument("--prompt-column", metavar="COLUMN", help="generate: the column that holds the prompt")
    request.add_argument("--text-column", metavar="COLUMN", help="embed: the column that holds the text")
    request.add_argument(
        "--text-template", metavar="TEXT", help="embed: text with {column} placeholders, or a .txt or .md file"
    )
    tune.add_argument("--model", required=True, metavar="MODEL", help="GGUF path, hf://, URL or demo:NAME")
    tune.add_argument("--engine", default="auto", metavar="ENGINE", help="the engine to tune (auto)")
    tune.add_argument("--system-prompt", metavar="TEXT", help="generate: sent before each row's prompt (or its file)")
    tune.add_argument("--max-tokens", type=int, default=256, metavar="N", help="generate: most tokens (256)")
    tune.add_argument("--output-schema", metavar="FILE", help="generate: JSON Schema of an answer")
    tune.add_argument("--pooling", choices=("mean", "cls", "last"), help="embed: how token vectors become one")
    tune.add_argument(
        "--rows", type=whole_number(1, 1_000_000), default=200, metavar="N", help="rows of the sample (200)"
    )
    tune.add_argument("--seconds", type=whole_number(1, 86_400), default=180, metavar="S", help="for all trials (180)")
    tune.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="an engine option that is not varied"
    )
    tune.add_argument(
        "--try",
        action="append",
        default=[],
        dest="trials",
        metavar="NAME=VALUE,VALUE",
        help="try these values instead of the usual options, such as n_parallel=8,32 (repeatable)",
    )


def run_tune(parsed: argparse.Namespace, console: Console) -> int:
    """Try, and print the table on standard output; the exit status. Ctrl-C ends it with what is known.

    Raises:
        MullamaError: wrong usage, or an input that cannot be read; nothing was tried.
    """
    interrupted = threading.Event()
    stop_on_signals(interrupted, console, "stopping: here is what is known (again to stop at once)")
    found = _try_and_report(parsed, console, interrupted)
    if interrupted.is_set():
        return ExitStatus.STOPPED
    return ExitStatus.DONE if found else ExitStatus.FAILED


def _try_and_report(parsed: argparse.Namespace, console: Console, interrupted: threading.Event) -> bool:
    """Whether any row came back."""
    from airflow_mullama.commands import option_trials
    from airflow_mullama.jobs.embed import EmbedJob
    from airflow_mullama.jobs.generate import GenerateJob
    from airflow_mullama.jobs.job import Job

    common: dict[str, Any] = {
        "model": parsed.model,
        "engine": parsed.engine,
        "engine_options": parse_engine_options(parsed.option),
    }
    job: Job
    if parsed.text_column or parsed.text_template:
        job = EmbedJob(
            text_column=parsed.text_column, text_template=parsed.text_template, pooling=parsed.pooling, **common
        )
    else:
        job = GenerateJob(
            prompt_template=parsed.prompt_template,
            prompt_column=parsed.prompt_column,
            system_prompt=parsed.system_prompt,
            max_tokens=parsed.max_tokens,
            output_schema=parsed.output_schema,
            **common,
        )
    wanted = _parse_trials(parsed.trials)
    for name, values in wanted.items():
        for value in values:
            job.engine_spec.validate_options({name: value})
    sample = option_trials.take_sample(job, parsed.input, parsed.rows)
    dimensions = option_trials.alternatives(job, wanted) if wanted else option_trials.default_alternatives(job)

    def tell(trial: option_trials.Trial) -> None:
        words = option_trials.describe_options(trial.options) or "defaults"
        result = trial.error or f"{trial.rows_per_second:.1f} rows/s"
        console.print(f"{words}: {result}", style="dim", highlight=False, markup=False, soft_wrap=True)

    trials = option_trials.tune(job, sample, dimensions, parsed.seconds, interrupted, tell)
    for line in option_trials.report_lines(job, trials):
        Console().print(line, highlight=False, markup=False, soft_wrap=True)
    return option_trials.best_trial(trials) is not None


def _parse_trials(pairs: Sequence[str]) -> dict[str, list[Any]]:
    """Turn ``["n_parallel=8,32"]`` into ``{"n_parallel": [8, 32]}``."""
    trials: dict[str, list[Any]] = {}
    for pair in pairs:
        name, equals, values = pair.partition("=")
        if not equals or not name or not values:
            raise ConfigurationError(f"--try {pair!r} is not of the form NAME=VALUE,VALUE, such as n_parallel=8,32.")
        trials.setdefault(name, []).extend(
            parse_engine_options([f"{name}={value}"])[name] for value in values.split(",")
        )
    return trials
