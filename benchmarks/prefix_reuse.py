"""Evaluated prompt tokens where rows share a beginning, against the least there is to evaluate.

One prefix: every row has the same 400 tokens before its own; at least each slot evaluates them once, and every row its
own part. Many prefixes: rows ask about documents, each document's rows one after the other as they lie in a sorted
table; at least each document is evaluated once. Tokens are counted, so that the machine's load does not matter.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama import GenerateJob, run_partition
from airflow_mullama.engines.base import EngineSettings, Request
from airflow_mullama.models.resolve import resolve_model

SLOTS = 16
N_CTX = 512
DOCUMENTS = 40


def questions(rows: int) -> list[str]:
    return [f"ticket {row * 7919 % 100_003}: where is my order" for row in range(rows)]


def one_prefix(rows: int) -> list[str]:
    head = "You are a careful clerk. " * 40
    return [head + text for text in questions(rows)]


def many_prefixes(rows: int) -> list[str]:
    words = random.Random(1)
    documents = [
        f"{number} document. " + " ".join(f"fact {words.randrange(1000)}" for _ in range(60))
        for number in range(DOCUMENTS)
    ]
    return [documents[row * DOCUMENTS // rows] + " " + text for row, text in enumerate(questions(rows))]


def tokenized(texts: Sequence[str]) -> list[list[int]]:
    settings = {"system_prompt": None, "chat": None, "max_tokens": 4, "sampling": {}}
    path = resolve_model("demo:ticket-tagger").path
    # Imported late: it is the engine's own tokenizer that counts.
    from airflow_mullama.engines.llamacpp.engine import LlamaCppEngine

    options, scratch = {"n_parallel": 1, "n_ctx": N_CTX}, tempfile.mkdtemp()
    engine = LlamaCppEngine(EngineSettings("generate", path, options, settings, scratch=scratch))
    prepared = engine.prepare([Request(row, 1, text) for row, text in enumerate(texts)])
    engine.close()
    return [one.tokens or [] for one in prepared if isinstance(one, Request)]


def least_tokens(tokens: Sequence[Sequence[int]], *, once_per_slot: bool) -> int:
    """What must be evaluated: of each row, what no earlier row began with; a shared beginning once per slot."""
    head = 0
    while all(row[head] == tokens[0][head] for row in tokens):
        head += 1
    if once_per_slot:
        return SLOTS * head + sum(len(row) - head for row in tokens)
    seen: set[tuple[int, ...]] = set()
    total = 0
    for row in tokens:
        shared = max((length for length in range(len(row)) if tuple(row[: length + 1]) in seen), default=-1) + 1
        total += len(row) - shared
        seen.update(tuple(row[: length + 1]) for length in range(len(row)))
    return total


def evaluated_over_least(rows: int) -> list[float]:
    """Prints the figures; for one prefix and for many, evaluated prompt tokens over the least there is to evaluate."""
    ratios = []
    cases: list[tuple[str, Callable[[int], list[str]], bool]] = [
        ("one prefix of 400 tokens", one_prefix, True),
        (f"{DOCUMENTS} documents, sorted", many_prefixes, False),
    ]
    for name, make, once_per_slot in cases:
        texts = make(rows)
        least = least_tokens(tokenized(texts), once_per_slot=once_per_slot)
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "in.parquet")
            pq.write_table(pa.table({"text": texts}), source)
            job = GenerateJob(
                model="demo:ticket-tagger",
                prompt_column="text",
                chat=False,
                max_tokens=4,
                engine_options={"n_parallel": SLOTS, "n_ctx": N_CTX},
            )
            manifest = run_partition(job, source, Path(folder, "out.parquet"), listeners=[])
        evaluated = manifest.prompt_tokens - manifest.cached_prompt_tokens
        print(
            f"{name}, {rows} rows, {SLOTS} slots: {manifest.prompt_tokens} prompt tokens, {evaluated} evaluated = "
            f"{evaluated / least:.2f} of the least ({least})"
        )
        ratios.append(evaluated / least)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    evaluated_over_least(parser.parse_args().rows)


if __name__ == "__main__":
    main()
