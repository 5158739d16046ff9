"""What Airflow registers, and what that costs processes that show nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.get_provider_info import get_provider_info
from airflow_mullama.plugin.routes import task_tab

REPOSITORY = Path(__file__).parents[2]


def run_python(code: str, home: Path, **environment: str) -> Any:
    """What code prints as JSON in a process with an Airflow of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])
    environment = {**clean, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **environment}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.mark.integration
def test_importing_the_plugin_adds_next_to_nothing(tmp_path: Path) -> None:
    code = (
        "import json, sys, airflow.plugins_manager\n"
        "before = set(sys.modules)\n"
        "import airflow_mullama.plugin.entry_point\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    added = run_python(code, tmp_path)
    assert {name.split(".")[0] for name in added} == {"airflow_mullama"}
    assert "airflow_mullama.plugin.application" not in added


LISTED = """
import json, warnings
from airflow import plugins_manager
plugins_manager.ensure_plugins_loaded()
infos = [one for one in plugins_manager.get_plugin_info() if one["name"] == "mullama"]
errors = getattr(plugins_manager, "import_errors", None)
if errors is None:
    errors = plugins_manager._get_plugins()[1]
print(json.dumps([infos, [error for error in errors if "ullama" in error]], default=str))
"""


@pytest.mark.usefixtures("installed_plugin")
@pytest.mark.integration
@pytest.mark.parametrize("lazily", ["True", "False"])
def test_it_is_registered_once(tmp_path: Path, lazily: str) -> None:
    infos, errors = run_python(LISTED, tmp_path, AIRFLOW__CORE__LAZY_DISCOVER_PROVIDERS=lazily)
    assert len(infos) == 1
    assert errors == []
    assert [app["url_prefix"] for app in infos[0]["fastapi_apps"]] == ["/mullama"]
    views = {view["destination"]: view for view in infos[0]["external_views"]}
    assert set(views) == {"task_instance", "dag_run"}
    # Relative addresses are found below whatever path Airflow's base URL has.
    for view in views.values():
        assert not view["href"].startswith(("/", "http"))
        assert not view["icon"].startswith(("/", "http"))
        assert view["name"] == "Mullama"


@pytest.mark.usefixtures("installed_plugin")
@pytest.mark.integration
def test_a_task_finds_it_too(tmp_path: Path) -> None:
    code = (
        "import json\n"
        "try:\n"
        "    from airflow.sdk import plugins_manager\n"
        "except ImportError:\n"
        "    from airflow import plugins_manager\n"
        "plugins_manager.ensure_plugins_loaded() if hasattr(plugins_manager, 'ensure_plugins_loaded') else None\n"
        "found = plugins_manager._get_plugins()[0] if hasattr(plugins_manager, '_get_plugins') "
        "else plugins_manager.plugins\n"
        "print(json.dumps([one.name for one in found]))"
    )
    assert run_python(code, tmp_path).count("mullama") == 1


def test_the_provider_names_its_plugin_and_links() -> None:
    info = get_provider_info()
    assert info["plugins"] == [{"name": "mullama", "plugin-class": "airflow_mullama.plugin.registration.MullamaPlugin"}]
    assert "airflow_mullama.operators.links.MullamaTabLink" in info["extra-links"]


ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: name not in (".", ".."))


@given(dag=ids, run=ids, task=ids, map_index=st.none() | st.integers(-1, 2000))
def test_any_id_comes_back_from_the_address_of_its_tab(dag: str, run: str, task: str, map_index: int | None) -> None:
    segments = task_tab(dag, run, task, map_index).split("/")
    mapped = ["mapped", str(map_index)] if map_index is not None and map_index >= 0 else []
    assert list(map(unquote, segments)) == ["dags", dag, "runs", run, "tasks", task, *mapped, "plugin", "mullama"]


@pytest.mark.parametrize("dots", [".", ".."])
def test_an_id_that_is_a_step_in_an_address_has_no_tab(dots: str) -> None:
    assert task_tab(dots, "run", "task") == task_tab("dag", dots, "task") == task_tab("dag", "run", dots) == ""
    assert task_tab("dag", "run", "...") != ""
