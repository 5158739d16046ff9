"""The script for a borrowed GPU, on a CPU with tiny models: there it must not fail at the first try."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run.sh"
NEEDS_A_GPU = {"memory after kill -9 of the worker", "memory after kill -9 of the task", "a context that does not fit"}

pytestmark = pytest.mark.integration


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        "bash",
        str(SCRIPT),
        "--dry-run",
        "--models",
        str(tmp_path / "models"),
        "--output",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, "PYTHON": sys.executable, "AIRFLOW_MULLAMA_CACHE": str(tmp_path / "cache")}
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_every_figure_is_measured_or_says_what_it_lacks(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    figures = {figure["name"]: figure for figure in results["figures"]}
    assert figures.keys() > NEEDS_A_GPU
    for name, figure in figures.items():
        if name not in NEEDS_A_GPU and figure["skipped"] is None:
            assert figure["ratio"] > 0, name
            assert figure["words"], name
    assert figures["two tasks, gpus='auto'"]["ratio"] == 1.0
    assert figures["vectors that are not numbers"]["ratio"] == 1.0
    assert figures["generation tiny 4 slots"]["numbers"]["ours"]["status_counts"] == {"success": 8}


def test_one_figure_alone(tmp_path: Path) -> None:
    done = run(tmp_path, "--only", "lease")
    assert done.returncode == 0, done.stdout + done.stderr
    (figure,) = json.loads((tmp_path / "out" / "results.json").read_text())["figures"]
    assert figure["name"] == "two tasks, gpus='auto'"
