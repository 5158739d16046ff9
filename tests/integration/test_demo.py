"""The demo as a person runs it, on fewer rows."""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

import psutil
import pyarrow.dataset as pads
import pytest

from airflow_mullama.cache import cache_directory
from airflow_mullama.demo import run
from airflow_mullama.demo.lake import write_lake
from airflow_mullama.demo.run import run_demo
from airflow_mullama.models.minilm import GGUF_NAME, PACKAGE, DemoModelUnavailableError
from airflow_mullama.models.resolve import locate_model

ROWS = 140


@pytest.fixture
def models() -> None:
    """Skips where a model is missing."""
    if not locate_model("demo:ticket-tagger")[0].is_file():
        pytest.skip("the ticket tagger's GGUF file is not there")
    if not (cache_directory() / "models" / GGUF_NAME).is_file():
        try:
            importlib.metadata.distribution(PACKAGE)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"the package {PACKAGE} is not installed")


@pytest.mark.integration
@pytest.mark.timeout(600)
@pytest.mark.skipif("CI" not in os.environ, reason="it takes a minute: CI runs it, and so does CI=true make test")
def test_the_demo(
    models: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    directory = tmp_path / "demo"
    assert run_demo(directory, rows=ROWS) == 0
    shown = capsys.readouterr().out
    assert "Wrote 140 support tickets of 7 days" in shown
    for task in ("tag", "embed"):
        assert len(re.findall(rf"^{task} +ds=2026-03-0\d +\[(\d+)/\1\] 100\.0%", shown, re.MULTILINE)) == 7
    assert "failed: prompt_too_long" in shown
    assert "skipped: null_input" in shown
    assert re.search(r"rows/s +[1-9]", shown)
    assert re.search(r"tokens/s +[1-9]", shown)
    assert f"airflow-mullama demo --ui --directory {directory}" in shown
    for name in ("tickets", "tickets_tagged", "tickets_embedded"):
        assert pads.dataset(directory / "lake" / name).count_rows() == ROWS
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_what_is_there_already_and_a_model_that_is_not_are_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(directory: Path) -> None:
        raise DemoModelUnavailableError("demo:minilm needs a package: install it")

    monkeypatch.setattr(run, "prepare_model", unavailable)
    write_lake(tmp_path / "lake" / "tickets", rows=ROWS)
    (tmp_path / "airflow").write_text("where Airflow's files would go: it is not started")
    assert run_demo(tmp_path, rows=ROWS) == 1
    shown = capsys.readouterr().out
    assert "Found 140 support tickets" in shown
    assert "Tickets are tagged but not embedded: demo:minilm needs a package: install it." in shown


def test_a_demo_that_cannot_be_written_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run_demo(tmp_path / "file") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("The demo failed: The tickets cannot be written to")
    assert "Traceback" not in shown


def test_commands_for_the_ui_fit_where_they_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIRFLOW_MULLAMA_CACHE", str(tmp_path / "cache"))
    assert run.default_directory() == tmp_path / "cache" / "demo"
    assert run.ui_command(None) == "airflow-mullama demo --ui"
    assert run.ui_command(tmp_path / "x y") == f"airflow-mullama demo --ui --directory '{tmp_path / 'x y'}'"
    for name in ("pyproject.toml", "Makefile", "dags", "airflow_mullama"):
        (tmp_path / name).mkdir()
    assert run.default_directory() == tmp_path / ".demo"
    assert run.ui_command(None) == "make ui"
    assert run.ui_command(tmp_path / "other") == f'make ui ARGS="--directory {tmp_path / "other"}"'
