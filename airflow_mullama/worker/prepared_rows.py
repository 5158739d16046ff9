"""Requests that are prepared and wait for a thread, and which of them it takes next."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence

from airflow_mullama.engines.base import Engine, Request
from airflow_mullama.worker.affinity import best_fit


class PreparedRows:
    """In order of arrival; whoever calls holds the lock."""

    def __init__(self) -> None:
        self._waiting: deque[Request] = deque()
        self._by_length: deque[Request] = deque()
        self._passed_over = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._by_length)

    def extend(self, requests: Iterable[Request]) -> None:
        """Add some."""
        self._waiting.extend(requests)

    def take(self, engine: Engine, last: Sequence[int]) -> list[Request]:
        """The next requests of a thread, at least one; there must be one.

        Args:
            engine: says how many it takes, and of what kind.
            last: token ids of the request that the thread did before, where it does one at a time.
        """
        if engine.rows_per_call == 1:
            return [self._fitting(engine, last)]
        if engine.info.pads_rows:
            return self._of_like_length(engine)
        # A fair share: one thread must not take the rows that others wait for.
        share = -(-len(self._waiting) // engine.info.calls)
        count = min(engine.rows_per_call, max(1, share))
        budget = engine.info.tokens_per_call
        if budget is not None:
            ends = itertools.accumulate(_length(request) for request in itertools.islice(self._waiting, count))
            count = max(1, sum(end <= budget for end in ends))
        return [self._waiting.popleft() for _ in range(count)]

    def _fitting(self, engine: Engine, last: Sequence[int]) -> Request:
        # The oldest must not wait forever behind those that fit better.
        fits = best_fit(self._waiting, last) if last and self._passed_over < 4 * engine.info.calls else 0
        self._passed_over = self._passed_over + 1 if fits else 0
        self._waiting.rotate(-fits)
        request = self._waiting.popleft()
        self._waiting.rotate(fits)
        return request

    def _of_like_length(self, engine: Engine) -> list[Request]:
        """Neighbours by length, the longest first. Those that arrive meanwhile wait, so that none waits forever."""
        if not self._by_length:
            self._by_length.extend(sorted(self._waiting, key=_length, reverse=True))
            self._waiting.clear()
        count = min(engine.rows_per_call, len(self._by_length))
        if engine.info.tokens_per_call is not None:
            count = min(count, max(1, engine.info.tokens_per_call // max(1, _length(self._by_length[0]))))
        return [self._by_length.popleft() for _ in range(count)]


def _length(request: Request) -> int:
    return len(request.tokens or ())
