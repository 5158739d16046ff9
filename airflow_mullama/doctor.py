"""``airflow-mullama doctor``: in one screen, what is installed, what the engines see, and whether a model works."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from airflow_mullama.engines.registry import AUTO_ORDER, ECHO_MODEL, engine_names, load_spec
from airflow_mullama.errors import MullamaError
from airflow_mullama.jobs import EmbedJob, GenerateJob, Job
from airflow_mullama.models.resolve import locate_model
from airflow_mullama.paths import cache_directory
from airflow_mullama.runner import prepare_model, run_partition
from airflow_mullama.worker.client import child_environment, describe_exit

PACKAGES = (
    "airflow-mullama",
    "apache-airflow",
    "pyarrow",
    "numpy",
    "xllamacpp",
    "mullama",
    "tokenizers",
    "huggingface-hub",
)
SELF_TEST_MODEL = "demo:ticket-tagger"
# In a process of its own: looking for GPUs loads drivers, which may fail in ways that end the process.
DEVICES_PROGRAM = """
import json, xllamacpp
print(json.dumps([{**{k: str(v) for k, v in d.items() if k in ("name", "description", "type")},
                   "free": int(d["memory_free"])} for d in xllamacpp.get_device_info()]))
"""


def examine(console: Console, model: str | None, engine: str, engine_options: Mapping[str, Any]) -> int:
    """Print the report.

    Args:
        console: where to.
        model: also load this one and let it answer or embed.
        engine: with this engine.
        engine_options: its settings.

    Returns:
        0, or 1 if no engine or not the given model works.
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
    console.print(f"  {name:<16} {text}", highlight=False, markup=False, soft_wrap=True)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _show_devices(console: Console) -> bool:
    done = subprocess.run([sys.executable, "-c", DEVICES_PROGRAM], capture_output=True, text=True, check=False)
    try:
        devices = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        _line(console, "devices", f"xllamacpp does not start: {reason}")
        return False
    for device in devices:
        _line(console, device["name"], f"{device['description']}, {device['free'] / 1e9:.1f} GB free")
    if not any("GPU" in device["type"] for device in devices):
        _line(console, "GPU", "none seen: the wheel on the package index is for the CPU (README, 'GPU wheels')")
    return True


def _show_mullama(console: Console, model: str | None) -> None:
    """Try the bindings out, with the given model or a small one."""
    console.print("[bold]mullama[/]")
    try:
        path = str(locate_model(model if model not in (None, ECHO_MODEL) else SELF_TEST_MODEL)[0])
    except MullamaError as error:
        _line(console, "self-test", str(error))
        return
    program = [sys.executable, "-m", "airflow_mullama.engines.mullama_self_test", path]
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=child_environment())
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
        job = _trial_job(model, engine, engine_options)
        prepared = prepare_model(job)
        header = prepared.header
        if header.metadata:
            _line(console, "file", prepared.path)
            _line(console, "sha256", prepared.sha256)
            about = f"{header.name or 'no name'}, {header.architecture}, context {header.context_length}"
            _line(console, "about", f"{about}, {'chat template' if header.chat_template else 'no chat template'}")
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "in.parquet"), Path(folder, "out.parquet")
            pq.write_table(pa.table({"text": ["Hello, who are you?"]}), source)
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


def _trial_job(model: str, engine: str, engine_options: Mapping[str, Any]) -> Job:
    """Generation, or embedding where the model's header says that it is an encoder."""
    common: dict[str, Any] = {
        "model": model,
        "engine": engine,
        "engine_options": engine_options,
        "max_error_ratio": 1.0,
    }
    generate = GenerateJob(prompt_column="text", max_tokens=32, **common)
    spec = generate.engine_spec
    if spec.needs_model_file:
        from airflow_mullama.models.gguf_header import read_gguf_header
        from airflow_mullama.models.resolve import locate_model

        if read_gguf_header(locate_model(model)[0]).is_encoder:
            return EmbedJob(text_column="text", **common)
    return generate
