"""Every example of the README and of docs/ is run: DAGs by Airflow, Python and shell examples as they stand."""

from __future__ import annotations

import ast
import datetime
import inspect
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

from airflow_mullama.commands.main import build_parser
from airflow_mullama.engines.registry import load_spec
from airflow_mullama.errors import EngineNotAvailableError
from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.models.resolve import locate_model
from tests.documentation import DOCS, PAGES, README, code_blocks, name_of, names_in_first_column, tables

pytestmark = pytest.mark.integration

# A block that imports what it uses is meant to be run; any other shows a part of a DAG.
PYTHON = [(page, block) for page in PAGES for block in code_blocks(page, "python")]
WHOLE = [(page, block) for page, block in PYTHON if block.startswith(("import ", "from "))]
PARTS = [(page, block) for page, block in PYTHON if not block.startswith(("import ", "from ", ">>> "))]
COMMANDS = [
    (page, command)
    for page in PAGES
    for block in code_blocks(page, "sh")
    for command in block.replace("\\\n", " ").splitlines()
    if command.startswith("airflow-mullama ")
]
# `demo` and what reads outputs are run by their own tests, `tune` takes its time; what several pages show is run once.
NOT_RUN = ("demo", "tune", "preview", "report", "evaluate", "compare")
RUN_COMMANDS = [command for _, command in COMMANDS if command.split()[1] not in NOT_RUN]
RUN_COMMANDS = list(dict.fromkeys(" ".join(command.split()) for command in RUN_COMMANDS))
DAY = datetime.datetime(2026, 11, 1, tzinfo=datetime.timezone.utc)
FURTHER_TEXTS = ["I was charged twice this month!"] * 9 + ["The parcel never came"]


def identify(value: Any) -> str | None:
    return name_of(value) if isinstance(value, Path) else None


def cell_value(cell: str) -> Any:
    """What a cell of the README's tables stands for."""
    if repeated := re.fullmatch(r'"(.*)" × (\d+)', cell):
        return repeated[1] * int(repeated[2])
    return None if cell == "null" else int(cell) if cell.isdecimal() else cell.strip("`")


def shown_rows(columns: list[str]) -> list[dict[str, Any]]:
    """The rows of the README's table that has these columns."""
    (table,) = [table for table in tables(README) if table[0] == columns]
    return [dict(zip(columns, map(cell_value, row), strict=True)) for row in table[1:]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What the examples call /data: days of tickets that begin with the README's three."""
    rows = shown_rows(["id", "text"])
    rows += [{"id": number, "text": text} for number, text in enumerate(FURTHER_TEXTS, len(rows) + 1)]
    for day in ("2026-11-01", "2026-11-02"):
        folder = tmp_path / "lake" / "tickets" / f"ds={day}"
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "part-00000.parquet")
    return tmp_path


def skip_without_minilm(example: str) -> None:
    from airflow_mullama.models.minilm import DemoModelUnavailableError

    if "sentence_transformers" in example:
        try:
            load_spec("sentence_transformers").require_available()
        except EngineNotAvailableError:
            pytest.skip("PyTorch is not installed: make test-torch")
    if "demo:minilm" in example:
        try:
            locate_model("demo:minilm")
        except DemoModelUnavailableError as error:
            pytest.skip(str(error))


def outputs(data: Path) -> list[Path]:
    lake = data / "lake"
    return [path for name in ("tagged", "vectors", "sample") for path in (lake / name).rglob("*.parquet")]


def check(paths: list[Path]) -> None:
    assert paths
    for path in paths:
        table = pq.ParquetFile(path).read()
        too_long = "success" if "chunks" in table.schema.names else "failed"
        assert table["status"].to_pylist() == ["success", "skipped", too_long, *["success"] * len(FURTHER_TEXTS)]


def test_there_are_examples() -> None:
    assert {page for page, _ in WHOLE} >= {README, DOCS / "jobs.md", DOCS / "command-line.md", DOCS / "partitions.md"}
    assert {page for page, _ in COMMANDS} >= {README, DOCS / "command-line.md", DOCS / "tuning.md"}
    assert {command.split()[1] for command in RUN_COMMANDS} >= {"generate", "embed", "doctor"}


@pytest.mark.parametrize(("page", "example"), WHOLE, ids=identify)
def test_python_example(page: Path, example: str, data: Path, run_dag: Callable[..., Any]) -> None:
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
        exec(compile(example.replace("/data/", f"{data}/"), name_of(page), "exec"), namespace)
    finally:
        DAG.__exit__ = leave  # type: ignore[method-assign]
    for dag in found:
        assert run_dag(dag, logical_date=DAY).state == "success"
    check(outputs(data))
    if page == README:
        (output,) = outputs(data)
        shown = shown_rows(["id", "text", "response", "status", "error_type"])
        assert pq.ParquetFile(output).read(list(shown[0])).to_pylist()[: len(shown)] == shown


@pytest.mark.parametrize("command", RUN_COMMANDS)
def test_command(command: str, data: Path) -> None:
    skip_without_minilm(command)
    words = shlex.split(command.replace("/data/", f"{data}/"))
    done = subprocess.run(
        [sys.executable, "-m", "airflow_mullama.commands.main", *words[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if words[1] == "doctor":
        assert ("answers" if "--model" in words else "Installed") in done.stdout
    else:
        check(outputs(data))


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=identify)
def test_every_command_is_one_that_there_is(page: Path, command: str) -> None:
    assert build_parser().parse_args(shlex.split(command)[1:]).run


@pytest.mark.parametrize(("page", "part"), PARTS, ids=identify)
def test_parts_of_dags_name_arguments_that_there_are(page: Path, part: str, airflow_home: Path) -> None:
    from airflow.sdk import BaseOperator

    import airflow_mullama.operators as operators

    for call in ast.walk(ast.parse(part)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in operators.__all__:
            operator = getattr(operators, call.func.id)
            known = {name for one in (*operator.__mro__, BaseOperator) for name in inspect.signature(one).parameters}
            assert {keyword.arg for keyword in call.keywords} <= known


def test_the_manifest_is_shown_as_it_is() -> None:
    (block,) = code_blocks(DOCS / "manifest.md", "json")
    shown = json.loads(block)
    manifest = PartitionManifest.from_json(shown).to_json()
    assert manifest.keys() == shown.keys()
    # Rates are of seconds with more digits than are shown.
    rates = ("rows_per_second", "tokens_per_second")
    assert {name: manifest[name] for name in rates} == pytest.approx({name: shown[name] for name in rates}, rel=1e-3)
    assert {name: value for name, value in manifest.items() if name not in rates} == {
        name: value for name, value in shown.items() if name not in rates
    }


def test_every_argument_of_the_operators_has_a_line(airflow_home: Path) -> None:
    from airflow_mullama.operators import MullamaClassifyOperator, MullamaEmbedOperator, MullamaGenerateOperator
    from airflow_mullama.operators.base import MullamaOperator

    listed = set(names_in_first_column(DOCS / "jobs.md", "argument"))
    for operator in (MullamaOperator, MullamaGenerateOperator, MullamaEmbedOperator, MullamaClassifyOperator):
        arguments = set(inspect.signature(operator.__init__).parameters) - {"self", "kwargs"}
        assert arguments - listed == set()


def test_every_argument_of_evaluation_and_gate_has_a_line(airflow_home: Path) -> None:
    from airflow_mullama.operators import MullamaEvaluateOperator, MullamaGateOperator

    for operator in (MullamaEvaluateOperator, MullamaGateOperator):
        listed = names_in_first_column(DOCS / "evaluation.md", operator.__name__)
        assert sorted(listed) == sorted(set(inspect.signature(operator.__init__).parameters) - {"self", "kwargs"})


def test_every_argument_of_listing_and_summary_is_explained(airflow_home: Path) -> None:
    from airflow_mullama.operators import MullamaListPartitionsOperator, MullamaSummaryOperator

    page = (DOCS / "partitions.md").read_text()
    for operator in (MullamaListPartitionsOperator, MullamaSummaryOperator):
        arguments = set(inspect.signature(operator.__init__).parameters) - {"self", "kwargs", "trigger_rule"}
        assert {name for name in arguments if not re.search(rf"\b{name}\b", page)} == set()
