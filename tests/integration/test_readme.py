"""Every example of the README is run: its DAGs by Airflow, its Python and shell examples as they stand."""

from __future__ import annotations

import datetime
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.models.resolve import locate_model

pytestmark = pytest.mark.integration

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
PYTHON = [block for language, block in BLOCKS if language == "python"]
COMMANDS = [
    command
    for language, block in BLOCKS
    if language == "sh"
    for command in block.replace("\\\n", " ").splitlines()
    if command.startswith("airflow-mullama ") and command != "airflow-mullama demo"
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What the README calls /data: a few tickets for the days that its examples name, and today."""
    today = datetime.datetime.now(datetime.timezone.utc).date()
    for day in ("2026-11-01", "2026-11-02", str(today)):
        folder = tmp_path / "lake" / "tickets" / f"ds={day}"
        folder.mkdir(parents=True)
        texts = ["I was charged twice this month!", None, "The parcel never came", f"Ticket of {day}"]
        pq.write_table(pa.table({"id": range(4), "text": texts}), folder / "part-00000.parquet")
    return tmp_path


def skip_without_minilm(example: str) -> None:
    from airflow_mullama.demo.minilm import DemoModelUnavailableError

    if "demo:minilm" in example:
        try:
            locate_model("demo:minilm")
        except DemoModelUnavailableError as error:
            pytest.skip(str(error))


def outputs(data: Path) -> list[Path]:
    lake = data / "lake"
    return [path for name in ("tagged", "vectors") for path in (lake / name).rglob("*.parquet")]


def check(paths: list[Path]) -> None:
    assert paths
    for path in paths:
        assert pq.ParquetFile(path).read()["status"].to_pylist() == ["success", "skipped", "success", "success"]


def test_the_readme_has_examples() -> None:
    assert len(PYTHON) == 4
    assert len(COMMANDS) == 3


@pytest.mark.parametrize("example", PYTHON)
def test_python_example(example: str, data: Path, run_dag: Callable[..., Any]) -> None:
    from airflow.sdk import DAG

    skip_without_minilm(example)
    namespace: dict[str, Any] = {"__name__": "example"}
    found: list[Any] = []
    leave = DAG.__exit__

    def remember(self: Any, *arguments: Any) -> Any:
        found.append(self)
        return leave(self, *arguments)

    DAG.__exit__ = remember  # type: ignore[method-assign]
    try:
        exec(compile(example.replace("/data/", f"{data}/"), "README.md", "exec"), namespace)
    finally:
        DAG.__exit__ = leave  # type: ignore[method-assign]
    for dag in found:
        assert run_dag(dag).state == "success"
    check(outputs(data))


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, data: Path) -> None:
    skip_without_minilm(command)
    words = shlex.split(command.replace("/data/", f"{data}/"))
    done = subprocess.run(
        [sys.executable, "-m", "airflow_mullama.cli", *words[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if words[1] == "doctor":
        assert "answers" in done.stdout
    else:
        check(outputs(data))


def test_the_readme_shows_a_manifest_as_it_is() -> None:
    (block,) = re.findall(r"^```json\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    shown = json.loads(block)
    manifest = PartitionManifest.from_json(shown).to_json()
    assert manifest.keys() == shown.keys()
    # Rates are of seconds with more digits than are shown.
    rates = ("rows_per_second", "tokens_per_second")
    assert {name: manifest[name] for name in rates} == pytest.approx({name: shown[name] for name in rates}, rel=1e-3)
    assert {name: value for name, value in manifest.items() if name not in rates} == {
        name: value for name, value in shown.items() if name not in rates
    }
