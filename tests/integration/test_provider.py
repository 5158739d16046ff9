"""What Airflow's own commands say of the provider. They read what is installed, so `make test` installs it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.airflow_commands import run_airflow


def is_installed() -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.distribution("airflow-mullama") is not None
    return False


pytestmark = pytest.mark.integration

installed = pytest.mark.skipif(not is_installed(), reason="Airflow finds providers that are installed (make test)")

Airflow = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def airflow(airflow_home: Path) -> Airflow:
    """Run commands of Airflow's in one process, with further environment variables; what each printed is one line."""

    def run(*commands: str, **environment: str) -> subprocess.CompletedProcess[str]:
        usual = {**os.environ, "COLUMNS": "400", "AIRFLOW__CORE__TEST_CONNECTION": "Enabled"}
        return run_airflow(*commands, environment={**usual, **environment})

    return run


@installed
def test_the_provider_is_listed_with_what_it_brings(airflow: Airflow) -> None:
    done = airflow(
        "providers get airflow-mullama --full --output json",
        "providers hooks --output json",
        "providers links",
        "config list --section mullama",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    provider, hooks, links, settings = map(json.loads, done.stdout.splitlines()[-4:])
    (provider,) = json.loads(provider)
    assert provider["package-name"] == "airflow-mullama"
    assert provider["name"] == "Mullama"
    (hook,) = [one for one in json.loads(hooks) if one["connection_type"] == "mullama"]
    assert hook["class"] == "airflow_mullama.hooks.mullama.MullamaHook"
    assert "airflow_mullama.operators.links.MullamaOutputLink" in links
    assert "connection_test_seconds" in settings


@installed
def test_the_decorators_are_known(airflow_home: Path) -> None:
    from airflow.sdk import task

    assert callable(task.mullama_generate)
    assert callable(task.mullama_embed)


@installed
def test_a_connection_is_tested_from_the_command_line(airflow: Airflow) -> None:
    connections = {
        f"AIRFLOW_CONN_{name}": json.dumps({"conn_type": "mullama", "extra": {"model": model, "n_parallel": 2}})
        for name, model in (("TAGGER", "demo:ticket-tagger"), ("NOTHING", "/no/such.gguf"))
    }
    # The second is run only if the first ends well.
    tested = airflow("connections test tagger", "connections test nothing", **connections)
    tagger, nothing = tested.stdout.splitlines()[-2:]
    assert "Connection success!" in tagger, tested.stdout + tested.stderr
    assert "The model '/no/such.gguf' does not exist" in nothing
    assert tested.returncode == 1
