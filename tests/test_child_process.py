"""What child processes of this package may import and see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_mullama.child_process import import_path, module_command, needed_environment

ELSEWHERE = "import sys; sys.stdout.write('from the current directory')\n"


def run_in(folder: Path, module: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": import_path(), **(environment or {})}
    command = module_command(module, *arguments)
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("variable", [{}, {"PYTHONSAFEPATH": "1"}], ids=["plain", "with a safe path"])
def test_a_module_is_run_as_by_python_m_but_not_from_the_current_directory(
    tmp_path: Path, variable: dict[str, str]
) -> None:
    for name in ("json/__init__.py", "json/tool.py", "runpy.py", "argparse.py", "sitecustomize_.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(ELSEWHERE)
    (tmp_path / "in.json").write_text('{"a": 1}')
    assert json.loads(run_in(tmp_path, "json.tool", "--compact", "in.json", environment=variable)) == {"a": 1}


@pytest.mark.parametrize("entry", ["", ".", "{cwd}", "{cwd}/"])
def test_the_import_path_has_no_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    monkeypatch.chdir(tmp_path)
    kept = [one for one in sys.path if one]
    monkeypatch.setattr(sys, "path", [entry.format(cwd=tmp_path), *kept])
    assert import_path().split(os.pathsep)[: len(kept)] == [os.path.abspath(one) for one in kept]
    assert str(tmp_path) not in map(os.path.realpath, import_path().split(os.pathsep))


def test_the_import_path_has_the_package_also_where_the_current_directory_is_its_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = str(Path(sys.modules["airflow_mullama"].__file__ or "").parents[1])
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [home, "/first", "/second"])
    assert import_path().split(os.pathsep) == ["/first", "/second", home]


def test_an_engine_sees_what_computing_needs_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {"CUDA_VISIBLE_DEVICES": "1", "GGML_VK_VISIBLE_DEVICES": "0", "HF_HOME": None, "TMPDIR": "/scratch"}
    secret = [
        "AIRFLOW_CONN_WAREHOUSE",
        "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
        "AIRFLOW_VAR_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "DATABASE_URL",
        "NVIDIA_API_KEY",
        "OPENAI_API_KEY",
    ]
    for name, value in needed.items():
        monkeypatch.setenv(name, value or "x")
    for name in secret:
        monkeypatch.setenv(name, "hush")
    environment = needed_environment()
    assert {name: environment.get(name) for name in needed} == needed
    assert [name for name in secret if name in environment] == []
    assert needed_environment({"OPENAI_API_KEY"})["OPENAI_API_KEY"] == "hush"


def test_libraries_are_not_looked_for_in_the_current_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", ":/usr/local/cuda/lib64:")
    assert needed_environment()["LD_LIBRARY_PATH"] == "/usr/local/cuda/lib64"
