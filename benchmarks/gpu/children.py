"""What is measured in a process of its own: ``python children.py NAME JSON``; the last line printed is JSON.

A bare engine does not shut down cleanly in a process that goes on, and the CPU of a task is only its own there.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def bare_generation(texts: str, model: str, slots: int, max_tokens: int, options: dict[str, Any]) -> dict[str, float]:
    """The engine itself, a thread for each slot that hands it the next prompt; started as our engine starts it."""
    from airflow_mullama.engines.base import EngineSettings
    from airflow_mullama.engines.llamacpp.engine import LlamaCppEngine

    prompts = pq.read_table(texts)["text"].to_pylist()
    settings: dict[str, Any] = {"system_prompt": None, "chat": False, "max_tokens": max_tokens, "sampling": {}}
    options = {**options, "n_parallel": slots}
    engine = LlamaCppEngine(EngineSettings("generate", model, options, settings, scratch=tempfile.mkdtemp()))
    bodies = [{"prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0, "top_k": 40} for prompt in prompts]

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        answered = engine._server.handle_completions(body)
        if "error" in answered:
            raise SystemExit(f"the bare engine failed: {answered}")
        return answered["usage"]

    answer(bodies[0])
    started = time.perf_counter()
    with ThreadPoolExecutor(slots) as pool:
        usages = list(pool.map(answer, bodies))
    seconds = time.perf_counter() - started
    return {
        "rows_per_second": len(bodies) / seconds,
        "tokens_per_second": sum(usage["completion_tokens"] for usage in usages) / seconds,
        "prompt_tokens": sum(usage["prompt_tokens"] for usage in usages) / len(usages),
        "completion_tokens": sum(usage["completion_tokens"] for usage in usages) / len(usages),
        "n_gpu_layers": engine._chosen.n_gpu_layers,
    }


def job(kind: str, source: str, target: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """One partition through this package, as a task does it."""
    from airflow_mullama import EmbedJob, GenerateJob, run_partition

    made = (EmbedJob if kind == "embed" else GenerateJob)(**arguments)
    manifest = run_partition(made, source, target, listeners=[])
    return {
        "rows_per_second": manifest.rows_per_second,
        "tokens_per_second": manifest.tokens_per_second,
        "prompt_tokens": (manifest.prompt_tokens or 0) / max(1, manifest.rows),
        "status_counts": dict(manifest.status_counts),
        "error_types": dict(manifest.error_types),
        "task_cpu_us_per_row": own_cpu() / max(1, manifest.rows) * 1e6,
        "seconds": vars(manifest.seconds),
    }


def bare_encode(texts: str, model: str, batch: int, device: str) -> dict[str, float]:
    """sentence-transformers in half precision on the same GPU, texts sorted by length, as its users do it."""
    from sentence_transformers import SentenceTransformer

    rows = pq.read_table(texts)["text"].to_pylist()
    encoder = SentenceTransformer(model, device=device, local_files_only=True)
    if device != "cpu":
        encoder = encoder.half()
    encoder.encode(rows[:batch], batch_size=batch)
    started = time.perf_counter()
    encoder.encode(rows, batch_size=batch, normalize_embeddings=True)
    return {"rows_per_second": len(rows) / (time.perf_counter() - started)}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    functions = {function.__name__: function for function in (bare_generation, job, bare_encode)}
    print(json.dumps(functions[name](**arguments)), flush=True)
    os._exit(0)
