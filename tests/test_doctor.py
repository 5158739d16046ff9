"""What ``doctor`` says of the engine mullama; of the others, see tests/integration/test_readme.py."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent / "engines"))  # for the double, with importlib import mode

from using_mullama import mullama_double

from airflow_mullama.doctor import examine

pytestmark = pytest.mark.integration


def report(model: str | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    examine(console, model, "mullama", {})
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_it_reports_what_the_installed_bindings_can_be_relied_on_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with mullama_double():
        lines = report("demo:ticket-tagger")
        assert "mullama ready" in lines
        assert "version 0.1.0" in lines
        assert "GPU offload no" in lines
        assert "generation sound" in lines
        assert "embeddings EmbeddingGenerator is not used: it gives zeros; Context is sound" in lines
        assert any(line.startswith("answers ") for line in lines)
        monkeypatch.setenv("MULLAMA_DOUBLE_MENDED", "all")
        monkeypatch.setenv("MULLAMA_DOUBLE_GPU", "1")
        mended = report()
    assert "GPU offload yes" in mended
    assert "embeddings EmbeddingGenerator is sound; Context is sound" in mended


def test_bindings_that_end_their_process_do_not_end_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mullama"
    package.mkdir()
    (package / "__init__.py").write_text("import os, sys\nsys.stderr.write('GGML_ASSERT(x) failed\\n')\nos.abort()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "self-test the process was killed by SIGABRT (the engine aborted): GGML_ASSERT(x) failed" in report()


def test_without_the_bindings_it_says_how_to_get_them() -> None:
    assert "mullama not installed: build its Python bindings, as docs/engines/mullama.md says" in report()
