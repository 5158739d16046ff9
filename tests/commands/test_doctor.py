"""What ``doctor`` says of the engine mullama; of the others, see tests/integration/test_docs_examples.py."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))  # for the double, with importlib import mode

from tiny_encoder import write_encoder_header
from using_mullama import mullama_double

from airflow_mullama.commands.doctor import examine

pytestmark = pytest.mark.integration


def report(model: str | None = None, engine: str = "mullama") -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    examine(console, model, engine, {})
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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_bindings_that_hang_end_with_the_report(tmp_path: Path, eventually: Any) -> None:
    package = tmp_path / "mullama"
    package.mkdir()
    begun = tmp_path / "begun"
    (package / "__init__.py").write_text(f"import threading\nopen({str(begun)!r}, 'w')\nthreading.Event().wait()\n")
    program = (
        "from airflow_mullama.commands.doctor import _run\n"
        "_run('airflow_mullama.engines.mullama.self_check', 'no model')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as parent:
        (child,) = eventually(lambda: psutil.Process(parent.pid).children())
        eventually(begun.exists)
        parent.kill()
        parent.wait()
        eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("mullama.so: undefined symbol: ggml_get_rows", 'RUSTFLAGS="-C linker-features=-lld"'),
        ("version `GLIBC_2.38' not found", "they were built on another machine"),
        ("cannot import name 'mullama'", "build them for this Python"),
    ],
)
def test_bindings_that_do_not_load_are_told_with_what_to_do(
    reason: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "mullama"
    package.mkdir()
    (package / "__init__.py").write_text(f"raise ImportError({reason!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mullama", raising=False)
    lines = report("demo:ticket-tagger")
    for name in ("self-test", "error"):
        (line,) = [line for line in lines if line.startswith(name)]
        assert reason in line
        assert remedy in line


def test_without_the_bindings_it_says_how_to_get_them() -> None:
    assert "mullama not installed: build its Python bindings, as docs/engines/mullama.md says" in report()


def test_an_encoder_that_does_not_say_how_it_pools_is_tried_all_the_same(tmp_path: Path) -> None:
    path = write_encoder_header(tmp_path / "encoder.gguf", pooling=None)
    lines = report(str(path), "llamacpp")
    assert "about no name, bert, context 2048, no chat template" in lines
    (error,) = [line for line in lines if line.startswith("error ")]
    assert "pooling" not in error  # it has no weights that could be loaded
