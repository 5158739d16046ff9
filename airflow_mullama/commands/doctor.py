"""``airflow-mullama doctor``: on one screen, what is installed, what the engines see, and whether a model works."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from airflow_mullama.cache import cache_directory
from airflow_mullama.child_process import module_command, needed_environment
from airflow_mullama.engines.llamacpp.build import describe_build
from airflow_mullama.engines.registry import AUTO_ORDER, ECHO_MODEL, engine_names, load_spec
from airflow_mullama.errors import MullamaError
from airflow_mullama.gpus.devices import list_gpus
from airflow_mullama.jobs.trial import TRIAL_COLUMN, trial_job
from airflow_mullama.models.resolve import locate_model
from airflow_mullama.redaction.foreign_text import printable
from airflow_mullama.run import prepare_model, run_partition
from airflow_mullama.worker.client import describe_exit

PACKAGES = (
    "airflow-mullama",
    "apache-airflow",
    "pyarrow",
    "numpy",
    "xllamacpp",
    "mullama",
    "tokenizers",
    "sentence-transformers",
    "torch",
    "huggingface-hub",
)
SELF_TEST_MODEL = "demo:ticket-tagger"
# A driver that does not answer, or a model that never ends to load, must not keep the other lines from being read.
TRIAL_SECONDS = 300.0


def examine(console: Console, model: str | None, engine: str, engine_options: Mapping[str, Any]) -> int:
    """Print the report.

    Args:
        console: where to.
        model: also load this one and let it answer or embed.
        engine: with this engine.
        engine_options: its settings.

    Returns:
        0; 1 if no engine works, or the given model does not.
    """
    console.print("[bold]Installed[/]")
    _line(console, "python", f"{platform.python_version()} ({sys.executable})")
    for package in PACKAGES:
        _line(console, package, _version(package))
    _line(console, "cache", str(cache_directory()))
    console.print("[bold]Engines[/]")
    works = False
    for name in engine_names():
        spec = load_spec(name)
        works = works or (spec.available and name in AUTO_ORDER)
        _line(console, name, "ready" if spec.available else f"not installed: {spec.install}")
    if load_spec("llamacpp").available:
        works = _show_devices(console) and works
    if load_spec("mullama").available:
        _show_mullama(console, model)
    if model is not None:
        console.print("[bold]Model[/]")
        works = _show_model(console, model, engine, engine_options) and works
    return 0 if works else 1


def _line(console: Console, name: str, text: str) -> None:
    console.print(f"  {name:<16} {printable(text)}", highlight=False, markup=False, soft_wrap=True)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _show_devices(console: Console) -> bool:
    done = _run("airflow_mullama.engines.llamacpp.describe_build")
    try:
        found = json.loads(done.stdout.splitlines()[-1])
        devices = found["devices"]
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        _line(console, "devices", f"xllamacpp does not start: {reason}")
        return False
    _line(console, "llama.cpp", describe_build(found["system"]))
    for device in devices:
        _line(console, device["name"], f"{device['description']}, {device['free'] / 1e9:.1f} GB free")
    if not any("GPU" in device["type"] for device in devices):
        gpus = list_gpus().gpus
        there = f"none seen, and the driver lists {len(gpus)}" if gpus else "none seen"
        _line(console, "GPU", f"{there}: the wheel on the package index is for the CPU (README, 'GPU wheels')")
    return True


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module in a process of its own, for a limited time, and get what it said. It ends with this process."""
    reading, writing = os.pipe()  # the child's standard input: closed when this process is gone
    try:
        return subprocess.run(
            module_command(module, *arguments),
            env=needed_environment(),
            stdin=reading,
            capture_output=True,
            text=True,
            timeout=TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        reason = f"it did not end within {TRIAL_SECONDS:g} s"
        return subprocess.CompletedProcess(expired.cmd, -signal.SIGKILL, stdout="", stderr=reason)
    finally:
        os.close(reading)
        os.close(writing)


def _show_mullama(console: Console, model: str | None) -> None:
    """Try the bindings out, with the given model or a small one."""
    console.print("[bold]mullama[/]")
    try:
        path = str(locate_model(model if model not in (None, ECHO_MODEL) else SELF_TEST_MODEL)[0])
    except MullamaError as error:
        _line(console, "self-test", str(error))
        return
    done = _run("airflow_mullama.engines.mullama.self_check", path)
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        _line(console, "self-test", f"the process {describe_exit(done.returncode)}: {reason}")
        return
    for name, text in found.items():
        _line(console, name, text)


def _show_model(console: Console, model: str, engine: str, engine_options: Mapping[str, Any]) -> bool:
    try:
        job = trial_job({"model": model, "engine": engine, "engine_options": engine_options, "max_error_ratio": 1.0})
        prepared = prepare_model(job)
        header = prepared.header
        if job.engine_spec.needs_model_file:
            _line(console, "file" if header.metadata else "folder", prepared.path)
            _line(console, "sha256", prepared.sha256)
        if header.metadata:
            about = f"{header.name or 'no name'}, {header.architecture}, context {header.context_length}"
            _line(console, "about", f"{about}, {'chat template' if header.chat_template else 'no chat template'}")
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "in.parquet"), Path(folder, "out.parquet")
            pq.write_table(pa.table({TRIAL_COLUMN: ["Hello, who are you?"]}), source)
            manifest = run_partition(job, source, target, listeners=[])
            row = pq.read_table(target).to_pylist()[0]
    except MullamaError as error:
        _line(console, "error", str(error))
        return False
    _line(console, "loaded in", f"{manifest.seconds.model_load:.1f} s")
    if row["status"] != "success":
        _line(console, "error", f"{row['error_type']}: {row['error']}")
        return False
    if "response" in row:
        _line(console, "answers", f"{row['response'][:200]!r} ({row['completion_tokens']} tokens)")
    else:
        _line(
            console,
            "embeds",
            f"{len(row['embedding'])} numbers: {', '.join(f'{x:.3f}' for x in row['embedding'][:4])} …",
        )
    return True
