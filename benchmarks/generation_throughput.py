"""Generated rows per second, against the engine's own limit and against one row at a time.

The limit is a bare xllamacpp server with the same model, slots and threads, and a minimal client: a thread for each
slot that hands it the next prompt. The peer is what people do by hand: the same server with one slot, one row after the
other. CPU seconds count every process, and not the start; on a machine that others use they say more than the wall
clock's. The ticket tagger is so small that an answer costs 5 ms; the other model has 60 times as many parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from _larger_model import write_larger_model
from _tickets import ticket_texts

from airflow_mullama import GenerateJob, run_partition
from airflow_mullama.demo.tickets import PROMPT_TEMPLATE
from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.models.resolve import resolve_model

MAX_TOKENS = 48


def bare_server(rows: int, n_parallel: int, model: str) -> None:
    """In a process of its own, because a server does not shut down cleanly in one that goes on."""
    from airflow_mullama.engines.llamacpp.engine import LlamaCppEngine

    settings: dict[str, Any] = {"system_prompt": None, "chat": None, "max_tokens": MAX_TOKENS, "sampling": {}}
    options, scratch = {"n_parallel": n_parallel, "n_threads": 1}, tempfile.mkdtemp()
    engine = LlamaCppEngine(EngineSettings("generate", model, options, settings, scratch=scratch))
    bodies = [
        {
            "messages": [{"role": "user", "content": PROMPT_TEMPLATE.format(text=text)}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0.0,
        }
        for text in ticket_texts(rows)
    ]
    answer = engine._server.handle_chat_completions
    started, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(n_parallel) as pool:
        tokens = sum(pool.map(lambda body: answer(body)["usage"]["completion_tokens"], bodies))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    figures = {"rows_per_second": len(bodies) / seconds, "rows_per_cpu_second": len(bodies) / cpu, "tokens": tokens}
    print(json.dumps(figures), flush=True)
    os._exit(0)


def measure_bare(rows: int, n_parallel: int, model: str) -> tuple[float, float]:
    """Rows per second and per CPU second."""
    command = [sys.executable, __file__, "--rows", str(rows), "--bare", str(n_parallel), "--model", model]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    return figures["rows_per_second"], figures["rows_per_cpu_second"]


def measure_ours(rows: int, slots: int, model: str, folder: Path) -> tuple[float, float]:
    """Rows per second, and CPU seconds of everything."""
    source, target = folder / "in.parquet", folder / f"{rows}.parquet"
    pq.write_table(pa.table({"text": ticket_texts(rows)}), source)
    job = GenerateJob(
        model=model,
        prompt_template=PROMPT_TEMPLATE,
        max_tokens=MAX_TOKENS,
        engine_options={"n_parallel": slots, "n_threads": 1},
    )
    before = cpu_seconds()
    rate = run_partition(job, source, target, listeners=[]).rows_per_second
    return rate, cpu_seconds() - before


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def share_of_limit(rows: int, slots: int, model: str) -> float:
    """Prints the figures; our rows per CPU second over those of the bare server."""
    path = resolve_model(model).path
    with tempfile.TemporaryDirectory() as name:
        limit, limit_cpu = measure_bare(rows, slots, path)
        _, start_cpu = measure_ours(slots, slots, model, Path(name))
        ours, cpu = measure_ours(rows, slots, model, Path(name))
        one_by_one, _ = measure_bare(rows, 1, path)
    per_cpu_second = (rows - slots) / (cpu - start_cpu)
    print(f"bare server, {slots} slots: {limit:.0f} rows/s; one row at a time: {one_by_one:.0f} rows/s")
    print(
        f"airflow-mullama: {ours:.0f} rows/s = {ours / limit:.2f} of the engine's own limit; per CPU second "
        f"{per_cpu_second:.0f} rows = {per_cpu_second / limit_cpu:.2f} of it (target 0.97)"
    )
    print(
        f"airflow-mullama: {ours / one_by_one:.2f} times one row at a time (the engine's batching gain is "
        f"{limit / one_by_one:.2f})"
    )
    return per_cpu_second / limit_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--model", help="instead of the two")
    arguments = parser.parse_args()
    if arguments.bare:
        bare_server(arguments.rows, arguments.bare, arguments.model)
    if arguments.model:
        share_of_limit(arguments.rows, arguments.slots, arguments.model)
        return
    print("ticket tagger, 1 M parameters:")
    share_of_limit(arguments.rows, arguments.slots, "demo:ticket-tagger")
    with tempfile.TemporaryDirectory() as folder:
        print("random weights, 60 M parameters:")
        share_of_limit(arguments.rows // 10, arguments.slots, str(write_larger_model(Path(folder, "larger.gguf"))))


if __name__ == "__main__":
    main()
