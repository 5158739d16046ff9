"""How it behaves on a GPU: memory that is freed, tasks that wait in line, errors that are clear. A figure is 1 or 0."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import HERE, Bench, Figure, Parts, environment, prompts
from models import write_overflowing_model

# How often two tasks are started together until one has to wait for the other.
LEASE_TRIES = 5


def gpu_memory_used() -> int | None:
    """MiB in use on the first GPU; ``None`` without one."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
    try:
        return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None


def memory(bench: Bench) -> Parts:
    """Whether a killed worker's, and a killed task's, memory is free again."""
    for victim in ("worker", "task"):
        yield partial(_memory, bench, victim)


def _memory(bench: Bench, victim: str) -> Figure:
    name = f"memory after kill -9 of the {victim}"
    before = gpu_memory_used()
    if before is None:
        return Figure(name, "", None, skipped="no GPU")
    source = bench.table("killed", prompts(100_000))
    arguments = {"model": bench.model(), "prompt_column": "text", "chat": False, "engine_options": bench.options}
    work = {"kind": "generate", "source": source, "target": f"{source}.out", "arguments": arguments}
    command = [sys.executable, str(HERE / "children.py"), "job", json.dumps(work)]
    task = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    during = _wait(lambda: (gpu_memory_used() or 0) > before + 500 and gpu_memory_used(), 90)
    pids = [task.pid] if victim == "task" else _workers_of(task.pid)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    if victim == "worker":
        time.sleep(0.5)
        task.kill()
    task.wait()
    freed = _wait(lambda: (gpu_memory_used() or 0) < before + 200, 20)
    after = gpu_memory_used()
    words = f"{before} MiB before, {during} during, {after} after"
    return Figure(name, words, 1.0 if freed else 0.0, 1.0)


def _workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def _wait(condition: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    return None


def lease(bench: Bench) -> Parts:
    """Two tasks that want the one GPU: the second waits until the first is done."""
    yield partial(_lease, bench)


def _lease(bench: Bench) -> Figure:
    name = "two tasks, gpus='auto'"
    source = bench.table("lease", prompts(4 if bench.dry_run else 128))
    arguments = {"model": bench.model(), "prompt_column": "text", "chat": False, "gpus": "auto", "max_tokens": 8}
    arguments["engine_options"] = bench.options
    locks = bench.folder / "locks"
    locks.mkdir(exist_ok=True)
    env = {**environment(), "AIRFLOW_MULLAMA_GPU_LOCKS": str(locks)}
    if gpu_memory_used() is None:
        env["AIRFLOW_MULLAMA_GPUS"] = "0"  # one that does not exist: what is leased is its name
    for number in range(LEASE_TRIES):
        waited = _waits_of_two_tasks(source, f"{source}.{number}", arguments, env)
        if waited[1] > 0:  # else the first was done before the second came
            break
    words = f"one waited {waited[0]:.1f} s, the other {waited[1]:.1f} s"
    return Figure(name, words, 1.0 if waited[0] == 0 < waited[1] else 0.0, 1.0)


def _waits_of_two_tasks(source: str, target: str, arguments: dict[str, Any], env: dict[str, str]) -> list[float]:
    tasks = []
    for number in range(2):
        work = {"kind": "generate", "source": source, "target": f"{target}.{number}", "arguments": arguments}
        command = [sys.executable, str(HERE / "children.py"), "job", json.dumps(work)]
        tasks.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env))
    ended = [task.communicate() for task in tasks]
    return sorted(json.loads(out.splitlines()[-1])["seconds"]["waiting_for_gpu"] for out, _ in ended)


def no_room(bench: Bench) -> Parts:
    """A context that does not fit gives a clear error, and no crash."""
    yield partial(_no_room, bench)


def _no_room(bench: Bench) -> Figure:
    name = "a context that does not fit"
    if gpu_memory_used() is None:
        return Figure(name, "", None, skipped="no GPU")
    source = bench.table("no_room", prompts(300))
    try:
        bench.generate(
            source, engine_options={"n_ctx": 8192, "n_parallel": 256, "cache_type_k": "f32", "cache_type_v": "f32"}
        )
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1]
        clear = "ModelLoadError" in last and "n_parallel" in last
        return Figure(name, last[:300], 1.0 if clear else 0.0, 1.0)
    return Figure(name, "it did fit", None, skipped="this GPU holds it")


def not_a_number(bench: Bench) -> Parts:
    """A model whose half-precision vectors overflow: every row is an error, none a success."""
    yield partial(_not_a_number, bench)


def _not_a_number(bench: Bench) -> Figure:
    model = str(write_overflowing_model(bench.folder))
    source = bench.table("overflow", prompts(32, 10))
    arguments = {"model": model, "text_column": "text", "pooling": "last", "max_error_ratio": 1.0, "max_retries": 0}
    try:
        ours = bench.child("job", kind="embed", source=source, target=f"{source}.out", arguments=arguments)
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1]
        return Figure("vectors that are not numbers", f"refused before the first row: {last[:200]}", 1.0, 1.0)
    good = ours["status_counts"].get("success", 0)
    return Figure("vectors that are not numbers", str(ours["error_types"]), 1.0 if good == 0 else 0.0, 1.0)
