"""The command ``airflow-mullama embed``."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from airflow_mullama.commands.job_arguments import add_job_arguments, job_arguments
from airflow_mullama.documents.chunking import CUTS
from airflow_mullama.errors import ConfigurationError


def add_embed_arguments(embed: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    text = embed.add_mutually_exclusive_group(required=True)
    text.add_argument("--text-column", metavar="COLUMN", help="the column that holds the text")
    text.add_argument("--text-template", metavar="TEXT", help="text with {column} placeholders, or its file")
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
    embed.add_argument("--chunk-tokens", type=int, metavar="N", help="cut texts into chunks of at most N tokens")
    embed.add_argument("--chunk-overlap", type=int, metavar="N", help="tokens that a chunk repeats of the last (0)")
    embed.add_argument("--chunk-by", choices=CUTS, help="where chunks end, if they can (sentence)")
    embed.add_argument("--chunk-column", metavar="COLUMN", help="of a template with several columns, the one to cut")
    embed.add_argument(
        "--chunk-output",
        choices=("list", "rows"),
        default="list",
        help="one row for each row (list), or for each chunk",
    )
    embed.add_argument("--pooled", choices=("mean",), help="with chunks, also a vector of each whole text")
    add_job_arguments(embed)


def run_embed(parsed: argparse.Namespace, console: Console) -> int:
    """Do it; the exit status."""
    from airflow_mullama.commands.terminal import run_in_terminal
    from airflow_mullama.jobs.embed import EmbedJob

    job = EmbedJob(
        text_column=parsed.text_column,
        text_template=parsed.text_template,
        normalize=not parsed.no_normalize,
        pooling=parsed.pooling,
        dimensions=parsed.dimensions,
        dtype=parsed.dtype,
        truncate=parsed.truncate,
        chunking=_chunking(parsed),
        chunk_output=parsed.chunk_output,
        pooled=parsed.pooled,
        **job_arguments(parsed),
    )
    return run_in_terminal(job, parsed, console)


def _chunking(parsed: argparse.Namespace) -> dict[str, Any] | None:
    """What the arguments that begin with ``--chunk`` say together.

    Raises:
        ConfigurationError: they do not say how long chunks are.
    """
    given = {name: getattr(parsed, f"chunk_{name}") for name in ("tokens", "overlap", "by", "column")}
    chunking = {name: value for name, value in given.items() if value is not None}
    if chunking and "tokens" not in chunking:
        raise ConfigurationError(f"--chunk-{next(iter(chunking))} needs --chunk-tokens, such as --chunk-tokens 256.")
    return chunking or None
