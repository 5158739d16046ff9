"""What the window knows of its rows and of the workers that they are at."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

Item = tuple[int, int, str]  # row, attempt, text


@dataclass
class Lane:
    """What the window knows of the worker in one seat.

    Args:
        in_flight: rows that the worker has.
        suspects: rows that an earlier worker of this seat had when it died; they are tried one by one.
        isolated: the suspect that is being tried.
        accused: rows that ended the worker twice, and nothing was answered since.
        restarts: of the worker, since it last brought an outcome.
    """

    in_flight: dict[int, Item] = field(default_factory=dict)
    suspects: deque[Item] = field(default_factory=deque)
    isolated: int | None = None
    accused: list[tuple[Item, str]] = field(default_factory=list)
    restarts: int = 0


class HeldBytes:
    """What the requests of rows without an outcome weigh together."""

    def __init__(self) -> None:
        self.total = 0
        self._of_row: dict[int, int] = {}

    def add(self, items: Iterable[Item]) -> None:
        """These are held from now on."""
        sizes = {row: sys.getsizeof(text) for row, _, text in items}
        self._of_row.update(sizes)
        self.total += sum(sizes.values())

    def drop(self, items: Iterable[Item]) -> None:
        """These have their outcome."""
        of_row = self._of_row
        self.total -= sum([of_row.pop(row, 0) for row, _, _ in items])
