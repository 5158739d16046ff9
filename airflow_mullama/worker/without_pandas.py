"""PyArrow without pandas, in a process that has no use for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import pyarrow as pa


class WithoutPandas(MetaPathFinder):
    """Finds no pandas."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError("a worker does without pandas", name=fullname)
        return None


def keep_pandas_out() -> None:
    """Let PyArrow look for pandas, once, and find none.

    It imports it with the first array it makes, wherever it is installed: a quarter of a second before the first
    answer, and 40 MB (measured with pandas 3.1). An engine's own packages may look for it as they please.
    """
    finder = WithoutPandas()
    sys.meta_path.insert(0, finder)
    pa.array([0])
    sys.meta_path.remove(finder)
