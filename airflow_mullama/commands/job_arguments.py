"""The arguments that the commands ``generate`` and ``embed`` share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from airflow_mullama.engines.options import parse_engine_options
from airflow_mullama.storage.parquet.unified_schema import SCHEMA_DRIFT


def add_job_arguments(parser: argparse.ArgumentParser, *, output: bool = True) -> None:
    """Input, output, and what every job has."""
    parser.add_argument(
        "input", nargs="+", metavar="INPUT", help="Parquet file or directory, local or a URL, or a table"
    )
    if output:
        parser.add_argument("output", metavar="OUTPUT", help="Parquet file or directory, local or a URL, or a table")
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="GGUF path, hf://, URL, demo:NAME, echo, or its name on a server",
    )
    parser.add_argument("--model-sha256", metavar="SHA256", help="refuse a model file of any other content")
    parser.add_argument(
        "--engine",
        default="auto",
        metavar="ENGINE",
        help="auto, llamacpp, sentence_transformers, openai, mullama or echo (auto)",
    )
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="an engine option, such as n_ctx=8192"
    )
    parser.add_argument("--require-gpu", action="store_true", help="fail if the engine sees no GPU")
    parser.add_argument("--max-retries", type=int, default=2, metavar="N", help="further tries of a failed row (2)")
    parser.add_argument("--row-timeout", type=float, metavar="SECONDS", help="most seconds for one row (no limit)")
    parser.add_argument(
        "--load-timeout", type=float, default=1800.0, metavar="SECONDS", help="most seconds to load the model (1800)"
    )
    parser.add_argument("--max-error-ratio", type=float, default=0.1, metavar="X", help="share that may fail (0.1)")
    parser.add_argument("--chunk-rows", type=int, default=1000, metavar="N", help="rows made durable together (1000)")
    parser.add_argument(
        "--chunk-seconds",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long a finished row may wait until it is durable (60)",
    )
    parser.add_argument(
        "--if-exists",
        choices=("resume", "overwrite", "error"),
        default="resume",
        help="what to do about an output that is there: go on and repair (resume), compute it anew, or fail",
    )
    parser.add_argument(
        "--schema-drift",
        choices=SCHEMA_DRIFT,
        default="promote",
        help="files of one partition whose schemas differ: read them as one without loss (promote), or fail",
    )
    parser.add_argument(
        "--max-seconds", type=float, metavar="SECONDS", help="of the engine's work; then end, and keep it"
    )
    parser.add_argument("--max-tokens-total", type=int, metavar="N", help="tokens of prompts and answers; the same")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows of all partitions")
    parser.add_argument("--sample", type=int, metavar="N", help="only N rows, drawn evenly from all partitions")
    parser.add_argument("--sample-seed", type=int, default=0, metavar="N", help="of the drawing (0)")
    parser.add_argument("--reuse-from", metavar="OUTPUT", help="an output of a sample, whose rows are not asked again")
    parser.add_argument("--output-prefix", default="", metavar="TEXT", help="put before each added column's name")
    parser.add_argument(
        "--gpus",
        type=parse_gpus,
        metavar="GPUS",
        help="GPUs to lease: auto, all, a number, or a list such as 0,2 (none)",
    )
    parser.add_argument("--json", action="store_true", help="print the whole manifest on standard output")


def job_arguments(parsed: argparse.Namespace) -> dict[str, Any]:
    """What they are as arguments of a job."""
    names = ("model", "model_sha256", "engine", "require_gpu", "max_retries", "row_timeout", "load_timeout")
    more = ("max_error_ratio", "chunk_rows", "chunk_seconds", "gpus", "if_exists", "schema_drift", "output_prefix")
    rows = ("max_seconds", "max_tokens_total", "limit", "sample", "sample_seed", "reuse_from")
    return {
        **{name: getattr(parsed, name) for name in (*names, *more, *rows)},
        "engine_options": parse_engine_options(parsed.option),
    }


def parse_gpus(text: str) -> str | int | list[str]:
    """``auto``, ``all``, a number of GPUs, or a list of their ids (``0,`` for the first alone)."""
    if text in ("auto", "all"):
        return text
    if text.isdecimal():
        return int(text)
    return [part.strip() for part in text.split(",") if part.strip()]


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """What argparse takes for an argument's type."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return number

    return parse
