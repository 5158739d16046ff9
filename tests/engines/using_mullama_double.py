"""Putting the double of the mullama bindings where this process and its workers import it from."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "mullama_double"


@contextmanager
def mullama_double() -> Iterator[None]:
    """While this lasts, ``import mullama`` gives the double, here and in workers started from here."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        installed = _forget()
        monkeypatch.syspath_prepend(str(FOLDER))
        yield
        _forget()
    sys.modules.update(installed)
    importlib.invalidate_caches()


def _forget() -> dict[str, object]:
    """Remove the package from the loaded modules, and return what was there."""
    names = [name for name in sys.modules if name.split(".")[0] == "mullama"]
    return {name: sys.modules.pop(name) for name in names}
