"""What keeps the core free of Airflow, and cheap to import where it is imported again and again."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_mullama

PACKAGE = Path(airflow_mullama.__file__).parent
# The rooms that stand on Airflow's side; everything else also runs where importing Airflow fails.
AIRFLOW_ROOMS = {"operators", "common_ai", "hooks", "decorators", "plugin", "compat", "demo", "dags"}
# What a DAG file's import of this package must not cost a scheduler that parses it every few seconds.
HEAVY = {"pyarrow", "numpy", "xllamacpp", "fsspec", "rich", "huggingface_hub"}


def core_files() -> list[Path]:
    return sorted(
        path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0].split(".")[0] not in AIRFLOW_ROOMS
    )


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def run_python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *filter(None, sys.path)])}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_there_is_a_core_to_look_at() -> None:
    assert {"run", "worker", "storage", "engines"} <= {
        path.relative_to(PACKAGE).parts[0].split(".")[0] for path in core_files()
    }


@pytest.mark.parametrize("path", core_files(), ids=module_name)
def test_nothing_below_the_operators_imports_airflow(path: Path) -> None:
    airflow = [name for name in imported_names(path) if name.split(".")[0] == "airflow"]
    rooms = [
        name
        for name in imported_names(path)
        if name.split(".")[0] == "airflow_mullama" and set(name.split(".")[1:2]) & (AIRFLOW_ROOMS - {"demo"})
    ]
    assert airflow == []
    assert rooms == []


def test_importing_the_whole_core_does_not_load_airflow() -> None:
    modules = [name for name in map(module_name, core_files()) if not name.endswith("__main__")]
    code = f"import importlib, json, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
    loaded = set(json.loads(run_python(code + "print(json.dumps(sorted(sys.modules)))")))
    assert set(modules) <= loaded
    assert "airflow" not in loaded


@pytest.mark.parametrize(
    "code",
    [
        "import airflow_mullama",
        "import airflow_mullama.get_provider_info as info; info.get_provider_info()",
        "import airflow_mullama.worker",
    ],
)
def test_importing_the_package_is_light(code: str) -> None:
    loaded = set(json.loads(run_python(code + "\nimport json, sys; print(json.dumps(sorted(sys.modules)))")))
    assert loaded & (HEAVY | {"airflow"}) == set()


def test_the_core_loads_no_engines_package() -> None:
    code = "import airflow_mullama.run.runner, airflow_mullama.engines.llamacpp.engine\n"
    loaded = set(json.loads(run_python(code + "import json, sys; print(json.dumps(sorted(sys.modules)))")))
    assert "xllamacpp" not in loaded


def test_every_public_name_can_be_imported_and_no_other() -> None:
    for name in airflow_mullama.__all__:
        assert getattr(airflow_mullama, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = airflow_mullama.nothing
