"""The command ``airflow-mullama generate``."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from rich.console import Console

from airflow_mullama.commands.job_arguments import add_job_arguments, job_arguments
from airflow_mullama.engines.reasoning import MODES

if TYPE_CHECKING:
    from airflow_mullama.jobs.generate import GenerateJob

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


def add_generate_arguments(generate: argparse.ArgumentParser, *, output: bool = True) -> None:
    """The command's arguments.

    Args:
        generate: takes them.
        output: whether one of them is the output.
    """
    prompt = generate.add_mutually_exclusive_group(required=True)
    prompt.add_argument(
        "--prompt-template", metavar="TEXT", help="text with {column} placeholders, or a .txt or .md file"
    )
    prompt.add_argument("--prompt-column", metavar="COLUMN", help="the column that holds the prompt")
    prompt.add_argument("--messages-column", metavar="COLUMN", help="the column that holds a conversation")
    generate.add_argument("--system-prompt", metavar="TEXT", help="sent as it is before each row's prompt (or a file)")
    generate.add_argument("--examples", metavar="FILE", help="JSON list of pairs: an input and its answer")
    generate.add_argument(
        "--chat", action=argparse.BooleanOptionalAction, default=None, help="use the model's chat template, or do not"
    )
    generate.add_argument("--max-tokens", type=int, default=256, metavar="N", help="most tokens of one answer (256)")
    for name in SAMPLING_OPTIONS:
        kind = int if name in ("top_k", "seed") else float
        generate.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="X", help=f"sampling: {name}")
    generate.add_argument("--stop", action="append", metavar="TEXT", help="end the answer at this text (repeatable)")
    generate.add_argument("--output-schema", metavar="FILE", help="JSON Schema of an answer: gives typed columns")
    generate.add_argument(
        "--image-columns",
        action="append",
        metavar="COLUMN",
        help="a column of pictures, or of their paths (repeatable)",
    )
    generate.add_argument("--image-root", metavar="PATH", help="the folder that those paths begin at (the input's)")
    generate.add_argument("--mmproj", metavar="PATH", help="the projector that brings pictures to the model")
    generate.add_argument(
        "--lora", action="append", type=parse_adapter, metavar="PATH[=SCALE]", help="a LoRA adapter (repeatable)"
    )
    generate.add_argument("--n", type=int, default=1, metavar="N", help="answers to each row (1)")
    generate.add_argument("--logprobs", action="store_true", help="say how likely an answer's tokens were")
    generate.add_argument("--repair-prompt", action="store_true", help="tell the model what broke the schema")
    generate.add_argument("--reasoning", choices=MODES, default="separate", help="what becomes of a model's thoughts")
    generate.add_argument(
        "--reasoning-tags", nargs=2, metavar=("OPEN", "CLOSE"), help="what its thoughts stand between"
    )
    generate.add_argument("--max-reasoning-tokens", type=int, metavar="N", help="most tokens of its thoughts")
    generate.add_argument(
        "--chat-template-kwargs", type=_json_object, metavar="JSON", help="further variables of the chat template"
    )
    add_job_arguments(generate, output=output)


def _json_object(text: str) -> object:
    return json.loads(text)


def run_generate(parsed: argparse.Namespace, console: Console) -> int:
    """Do it; the exit status."""
    from airflow_mullama.commands.terminal import run_in_terminal

    return run_in_terminal(generate_job(parsed), parsed, console)


def generate_job(parsed: argparse.Namespace) -> GenerateJob:
    """The job that the arguments ask for.

    Raises:
        ConfigurationError: they cannot work.
    """
    from airflow_mullama.jobs.generate import GenerateJob

    return GenerateJob(
        prompt_template=parsed.prompt_template,
        prompt_column=parsed.prompt_column,
        messages_column=parsed.messages_column,
        system_prompt=parsed.system_prompt,
        examples=parsed.examples,
        chat=parsed.chat,
        max_tokens=parsed.max_tokens,
        output_schema=parsed.output_schema,
        repair_prompt=parsed.repair_prompt,
        image_columns=parsed.image_columns,
        image_root=parsed.image_root,
        mmproj=parsed.mmproj,
        lora=parsed.lora,
        n=parsed.n,
        logprobs=parsed.logprobs,
        reasoning=parsed.reasoning,
        reasoning_tags=parsed.reasoning_tags,
        max_reasoning_tokens=parsed.max_reasoning_tokens,
        chat_template_kwargs=parsed.chat_template_kwargs,
        sampling={**{name: getattr(parsed, name) for name in SAMPLING_OPTIONS}, "stop": parsed.stop},
        **job_arguments(parsed),
    )


def parse_adapter(text: str) -> dict[str, Any]:
    """``adapter.gguf=0.5`` for an adapter with a scale, ``adapter.gguf`` for one with the scale 1."""
    path, _, scale = text.rpartition("=")
    try:
        return {"path": path, "scale": float(scale)} if path else {"path": text}
    except ValueError:
        return {"path": text}  # an equals sign of the path's own
