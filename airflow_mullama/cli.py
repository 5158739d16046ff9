"""``airflow-mullama``: the same jobs from a shell, ``tune``, ``doctor``, and ``demo``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from airflow_mullama import __version__
from airflow_mullama.engines.options import parse_engine_options
from airflow_mullama.errors import ConfigurationError, ErrorBudgetExceededError, JobStoppedError, MullamaError
from airflow_mullama.tune_command import add_tune_arguments, run_tune, whole_number

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_ERROR_BUDGET = 3
EXIT_STOPPED = 130

SAMPLING_OPTIONS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit status: 0 done, 1 failed, 2 wrong usage, 3 too many rows failed, 130
    stopped."""
    parsed = build_parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        sys.exit(parsed.run(parsed, console))
    except ErrorBudgetExceededError as error:
        _show_error(console, error)
        sys.exit(EXIT_ERROR_BUDGET)
    except JobStoppedError as error:
        console.print(str(error), highlight=False, markup=False, soft_wrap=True)
        sys.exit(EXIT_STOPPED)
    except ConfigurationError as error:
        _show_error(console, error)
        sys.exit(EXIT_USAGE)
    except MullamaError as error:
        _show_error(console, error)
        sys.exit(EXIT_FAILED)


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

    generate = commands.add_parser("generate", help="add a column of generated text")
    prompt = generate.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt-template", metavar="TEXT", help="text with {column} placeholders")
    prompt.add_argument("--prompt-column", metavar="COLUMN", help="the column that holds the prompt")
    generate.add_argument("--system-prompt", metavar="TEXT", help="sent as it is before each row's prompt")
    generate.add_argument(
        "--chat", action=argparse.BooleanOptionalAction, default=None, help="use the model's chat template, or do not"
    )
    generate.add_argument("--max-tokens", type=int, default=256, metavar="N", help="most tokens of one answer (256)")
    for name in SAMPLING_OPTIONS:
        kind = int if name in ("top_k", "seed") else float
        generate.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="X", help=f"sampling: {name}")
    generate.add_argument("--stop", action="append", metavar="TEXT", help="end the answer at this text (repeatable)")
    generate.add_argument("--output-schema", metavar="FILE", help="JSON Schema of an answer: gives typed columns")
    generate.add_argument("--repair-prompt", action="store_true", help="tell the model what broke the schema")
    _add_common(generate)
    generate.set_defaults(run=_generate)

    embed = commands.add_parser("embed", help="add a column of embeddings")
    text = embed.add_mutually_exclusive_group(required=True)
    text.add_argument("--text-column", metavar="COLUMN", help="the column that holds the text")
    text.add_argument("--text-template", metavar="TEXT", help="text with {column} placeholders")
    embed.add_argument("--no-normalize", action="store_true", help="keep the vectors' lengths")
    embed.add_argument("--pooling", choices=("mean", "cls", "last"), help="how token vectors become one")
    embed.add_argument("--dimensions", type=int, metavar="N", help="keep only the first N numbers")
    embed.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="type of the numbers")
    embed.add_argument(
        "--truncate",
        choices=("error", "end"),
        default="error",
        help="a text longer than the model reads: fail its row (error), or cut off its end and say so (end)",
    )
    _add_common(embed)
    embed.set_defaults(run=_embed)

    tune = commands.add_parser("tune", help="try engine options on a sample of your rows and print the fastest")
    add_tune_arguments(tune)
    tune.set_defaults(run=_tune)

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


def _gpus(text: str) -> str | int | list[str]:
    """``auto``, ``all``, a number of GPUs, or a list of their ids (``0,`` for the first alone)."""
    if text in ("auto", "all"):
        return text
    if text.isdecimal():
        return int(text)
    return [part.strip() for part in text.split(",") if part.strip()]


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", nargs="+", metavar="INPUT", help="Parquet file or directory, local or a URL")
    parser.add_argument("output", metavar="OUTPUT", help="Parquet file or directory, local or a URL")
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="GGUF path, hf://, URL, demo:NAME, echo, or its name on a server",
    )
    parser.add_argument(
        "--engine", default="auto", metavar="ENGINE", help="auto, llamacpp, mullama, openai or echo (auto)"
    )
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="an engine option, such as n_ctx=8192"
    )
    parser.add_argument("--require-gpu", action="store_true", help="fail if the engine sees no GPU")
    parser.add_argument("--max-retries", type=int, default=2, metavar="N", help="further tries of a failed row (2)")
    parser.add_argument("--row-timeout", type=float, metavar="SECONDS", help="most seconds for one row (no limit)")
    parser.add_argument("--max-error-ratio", type=float, default=0.1, metavar="X", help="share that may fail (0.1)")
    parser.add_argument("--chunk-rows", type=int, default=1000, metavar="N", help="rows made durable together (1000)")
    parser.add_argument(
        "--if-exists",
        choices=("resume", "overwrite", "error"),
        default="resume",
        help="what to do about an output that is there: go on and repair (resume), compute it anew, or fail",
    )
    parser.add_argument("--output-prefix", default="", metavar="TEXT", help="put before each added column's name")
    parser.add_argument(
        "--gpus",
        type=_gpus,
        metavar="GPUS",
        help="GPUs to lease: auto, all, a number, or a list such as 0,2 (none)",
    )
    parser.add_argument("--json", action="store_true", help="print the whole manifest on standard output")


def _common_arguments(parsed: argparse.Namespace) -> dict[str, Any]:
    names = ("model", "engine", "require_gpu", "max_retries", "row_timeout", "max_error_ratio", "chunk_rows", "gpus")
    return {
        **{name: getattr(parsed, name) for name in (*names, "if_exists", "output_prefix")},
        "engine_options": parse_engine_options(parsed.option),
    }


def _generate(parsed: argparse.Namespace, console: Console) -> int:
    from airflow_mullama.jobs import GenerateJob

    job = GenerateJob(
        prompt_template=parsed.prompt_template,
        prompt_column=parsed.prompt_column,
        system_prompt=parsed.system_prompt,
        chat=parsed.chat,
        max_tokens=parsed.max_tokens,
        output_schema=parsed.output_schema,
        repair_prompt=parsed.repair_prompt,
        sampling={**{name: getattr(parsed, name) for name in SAMPLING_OPTIONS}, "stop": parsed.stop},
        **_common_arguments(parsed),
    )
    return _run(job, parsed, console)


def _embed(parsed: argparse.Namespace, console: Console) -> int:
    from airflow_mullama.jobs import EmbedJob

    job = EmbedJob(
        text_column=parsed.text_column,
        text_template=parsed.text_template,
        normalize=not parsed.no_normalize,
        pooling=parsed.pooling,
        dimensions=parsed.dimensions,
        dtype=parsed.dtype,
        truncate=parsed.truncate,
        **_common_arguments(parsed),
    )
    return _run(job, parsed, console)


def _tune(parsed: argparse.Namespace, console: Console) -> int:
    interrupted = threading.Event()
    _stop_on_signals(interrupted, console, "stopping: here is what is known (again to stop at once)")
    found = run_tune(parsed, console, interrupted)
    if interrupted.is_set():
        return EXIT_STOPPED
    return 0 if found else EXIT_FAILED


def _run(job: Any, parsed: argparse.Namespace, console: Console) -> int:
    from airflow_mullama.runner import run_job
    from airflow_mullama.terminal import TerminalListener

    stop = threading.Event()
    _stop_on_signals(stop, console)
    inputs = parsed.input[0] if len(parsed.input) == 1 else parsed.input
    try:
        with TerminalListener(console) as listener:
            manifest = run_job(job, inputs, parsed.output, listeners=[listener], stop=stop).to_json()
    except ErrorBudgetExceededError as error:
        if error.manifest is not None:
            _show_manifest(error.manifest.to_json(), parsed, console)
        raise
    _show_manifest(manifest, parsed, console)
    return 0


def _show_manifest(manifest: dict[str, Any], parsed: argparse.Namespace, console: Console) -> None:
    if parsed.json:
        Console().print_json(json.dumps(manifest))
    for line in summary_lines(manifest):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _stop_on_signals(
    stop: threading.Event,
    console: Console,
    message: str = "stopping: what is finished is kept (again to stop at once)",
) -> None:
    """The first Ctrl-C (or SIGTERM) ends the job with what is finished kept; a second one ends it at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        # Nothing else may happen here: the interrupted code may be in the middle of a line of output.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stop.set()

    def say_so() -> None:
        stop.wait()
        console.print(message, style="dim")

    threading.Thread(target=say_so, daemon=True, name="mullama-stopping").start()
    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)


def summary_lines(manifest: dict[str, Any]) -> list[str]:
    """What a person wants to know of a finished job."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(manifest["status_counts"].items()))
    lines = [f"{manifest['rows']} rows: {counts or 'none'}"]
    if manifest["error_types"]:
        listed = ", ".join(f"{name} {count}" for name, count in sorted(manifest["error_types"].items()))
        lines.append(f"without a result: {listed}")
    if manifest["truncated_rows"]:
        lines.append(f"cut at the model's limit: {manifest['truncated_rows']}")
    if manifest["skipped"]:
        lines.append("nothing was done: the output is up to date")
    else:
        spared = manifest["resumed_rows"] + manifest["reused_rows"]
        kept = f"; {spared} rows were already done" if spared else ""
        if manifest["deduplicated_rows"]:
            kept += f"; {manifest['deduplicated_rows']} rows asked the same as others and were not computed twice"
        rates = ""
        if manifest["computed_rows"]:
            rates = f"{manifest['rows_per_second']:.1f} rows/s, {manifest['tokens_per_second']:.0f} tokens/s, "
        lines.append(f"{rates}{manifest['seconds']['total']:.1f} s in all{kept}")
    lines.append(f"output: {manifest['output_path']}")
    return lines


def _demo(parsed: argparse.Namespace, console: Console) -> int:
    from airflow_mullama.demo.run import run_demo

    return int(run_demo(parsed.directory, ui=parsed.ui, port=parsed.port, rows=parsed.rows))


def _doctor(parsed: argparse.Namespace, console: Console) -> int:
    from airflow_mullama.doctor import examine

    return examine(Console(), parsed.model, parsed.engine, parse_engine_options(parsed.option))


if __name__ == "__main__":
    main()
