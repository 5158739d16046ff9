"""How often Python looks for cycles of garbage while rows are on their way.

It does so when there are so many objects more than before. Rows in work are as many, and hold no cycles: with Python's
threshold of 700, looking for them took a tenth of a task's CPU for a row, and a sixth of a worker's (measured).
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

THRESHOLD = 10_000


@contextlib.contextmanager
def seldom_collected() -> Iterator[None]:
    """Within this, Python looks for garbage less often, if it does at all; afterwards as often as before."""
    first, *others = gc.get_threshold()
    gc.set_threshold(max(first, THRESHOLD) if first else 0, *others)
    try:
        yield
    finally:
        gc.set_threshold(first, *others)
