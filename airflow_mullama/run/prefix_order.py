"""The order in which requests go to the engine, so that a long beginning that some of them share is evaluated once.

llama.cpp keeps what a slot evaluated and goes on from the part that the slot's next request shares with it. Requests of
one group (rows about the same document) that run side by side share nothing: each slot evaluates the beginning. So the
groups are laid side by side and each group's requests one after the other, and the worker gives a slot the request that
fits what the slot did last (:mod:`airflow_mullama.worker.affinity`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from os.path import commonprefix

# Requests are of one group if this many characters agree, counted from where not all requests agree any more.
GROUP_CHARACTERS = 64


def side_by_side(texts: Sequence[str], n_parallel: int) -> list[int] | None:
    """Arrange requests so that those next to each other are of different groups.

    Args:
        texts: rendered requests, in order of row.
        n_parallel: how many run at once.

    Returns:
        Positions in ``texts``, in the order to ask them; ``None`` where the given order is as good.
    """
    if len(texts) < 3 or n_parallel < 2:
        return None
    head = len(commonprefix([min(texts), max(texts)]))  # noqa: RUF071 - characters are meant
    beginnings = [text[head : head + GROUP_CHARACTERS] for text in texts]
    if len(set(beginnings)) in (1, len(texts)):
        return None
    groups: dict[str, list[int]] = {}
    for position, beginning in enumerate(beginnings):
        groups.setdefault(beginning, []).append(position)
    coming = deque(groups.values())
    active: deque[deque[int]] = deque()
    order: list[int] = []
    while coming or active:
        while coming and len(active) < n_parallel:
            active.append(deque(coming.popleft()))
        group = active.popleft()
        order.append(group.popleft())
        if group:
            active.append(group)
    return order
