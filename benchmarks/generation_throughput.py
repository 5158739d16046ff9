"""Generated rows per second, against the engine's own limit and against one row at a time.

The limit is a bare xllamacpp server with the same model, slots and threads, and a client that only hands it ready token
ids from as many threads. The peer is what people do by hand: the same server with one slot, one row after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama import GenerateJob, run_partition
from airflow_mullama.demo.tickets import PROMPT_TEMPLATE, generate_tickets
from airflow_mullama.engines.base import EngineSettings, Request
from airflow_mullama.models.resolve import resolve_model

MAX_TOKENS = 48
SEED = 20_261_123


def ticket_texts(rows: int) -> list[str]:
    """Tickets that differ, so that no prompt cache flatters anybody."""
    texts: dict[str, None] = {}
    for ticket in generate_tickets(rows * 2, seed=SEED):
        texts.setdefault(ticket.text)
    return list(texts)[:rows]


def bare_server(rows: int, n_parallel: int, model: str) -> None:
    """In a process of its own, because a server does not end well in one that goes on."""
    from airflow_mullama.engines.llamacpp import LlamaCppEngine

    settings: dict[str, Any] = {"system_prompt": None, "chat": None, "max_tokens": MAX_TOKENS, "sampling": {}}
    engine = LlamaCppEngine(EngineSettings("generate", model, {"n_parallel": n_parallel, "n_threads": 1}, settings))
    texts = [PROMPT_TEMPLATE.format(text=text) for text in ticket_texts(rows)]
    prepared = engine.prepare([Request(row, 1, text) for row, text in enumerate(texts)])
    bodies = [
        {"prompt": one.tokens, "max_tokens": MAX_TOKENS, "temperature": 0.0}
        for one in prepared
        if isinstance(one, Request)
    ]
    started = time.perf_counter()
    with ThreadPoolExecutor(n_parallel) as pool:
        tokens = sum(pool.map(lambda b: engine._server.handle_completions(b)["usage"]["completion_tokens"], bodies))
    seconds = time.perf_counter() - started
    print(json.dumps({"rows_per_second": len(bodies) / seconds, "tokens": tokens}), flush=True)
    os._exit(0)


def measure_bare(rows: int, n_parallel: int, model: str) -> float:
    command = [sys.executable, __file__, "--rows", str(rows), "--bare", str(n_parallel), "--model", model]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])["rows_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--model", default="demo:ticket-tagger")
    arguments = parser.parse_args()
    if arguments.bare:
        bare_server(arguments.rows, arguments.bare, arguments.model)
    path = resolve_model(arguments.model).path
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "in.parquet"), Path(name, "out.parquet")
        pq.write_table(pa.table({"text": ticket_texts(arguments.rows)}), source)
        limit = measure_bare(arguments.rows, arguments.slots, path)
        job = GenerateJob(
            model=arguments.model,
            prompt_template=PROMPT_TEMPLATE,
            max_tokens=MAX_TOKENS,
            engine_options={"n_parallel": arguments.slots, "n_threads": 1},
        )
        ours = run_partition(job, source, target, listeners=[]).rows_per_second
        one_by_one = measure_bare(arguments.rows, 1, path)
    print(f"bare server, {arguments.slots} slots: {limit:.0f} rows/s; one row at a time: {one_by_one:.0f} rows/s")
    print(f"airflow-mullama: {ours:.0f} rows/s = {ours / limit:.2f} of the engine's own limit")
    print(
        f"airflow-mullama: {ours / one_by_one:.2f} times one row at a time (the engine's batching gain is "
        f"{limit / one_by_one:.2f})"
    )


if __name__ == "__main__":
    main()
