"""Which of the prepared requests a thread takes next: the one that shares most with what it did last."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mullama.engines.base import Request

# A shared beginning shorter than this is not worth leaving the order.
LEAST_GAIN_TOKENS = 16


def best_fit(prepared: Sequence[Request], last: Sequence[int]) -> int:
    """The position of the request whose beginning agrees longest with ``last``; 0 unless that gains something.

    Args:
        prepared: requests in order of arrival, at least one.
        last: token ids of the request that the thread did before.
    """
    first = best = _shared(prepared[0].tokens or [], last)
    position = 0
    for number, request in enumerate(prepared):
        tokens = request.tokens or []
        # Only a longer agreement is of interest: most requests fail this one comparison.
        if len(tokens) > best and len(last) > best and tokens[: best + 1] == last[: best + 1]:
            position, best = number, _shared(tokens, last)
    return position if best >= first + LEAST_GAIN_TOKENS else 0


def _shared(tokens: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens agree from the beginning."""
    low, high = 0, min(len(tokens), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if tokens[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
