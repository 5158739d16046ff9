"""Putting a stand-in for the mullama bindings where this process and its workers import them from."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

DOUBLE = Path(__file__).parent / "mullama_double"
PORT = Path(__file__).parent / "mullama_port"


def mullama_double() -> AbstractContextManager[None]:
    """While this lasts, ``import mullama`` gives the double, here and in workers started from here."""
    return _imported_from(DOUBLE)


def mullama_port() -> AbstractContextManager[None]:
    """The same with the port over the real llama.cpp inside ``xllamacpp``."""
    return _imported_from(PORT)


@cache
def why_no_port() -> str | None:
    """Why the port cannot run here; ``None`` if it can."""
    if importlib.util.find_spec("xllamacpp") is None:
        return "the package xllamacpp is not installed"
    try:
        with mullama_port():
            importlib.import_module("mullama").require_known_layout()
    except (AttributeError, NotImplementedError, ValueError, OSError) as error:
        return f"the port does not know the llama.cpp of this xllamacpp: {error}"
    return None


@contextmanager
def _imported_from(folder: Path) -> Iterator[None]:
    installed = _forget()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(folder))
        try:
            yield
        finally:
            _forget()
    sys.modules.update(installed)
    importlib.invalidate_caches()


def _forget() -> dict[str, ModuleType]:
    """Remove the package from the loaded modules, and return what was there."""
    names = [name for name in sys.modules if name.split(".")[0] == "mullama"]
    return {name: sys.modules.pop(name) for name in names}
