"""The queue of those who wait for GPUs: all or nothing, first come, first served, even if some of them die.

A waiter has a ticket: a numbered file that it keeps locked and that names the GPUs that would do. It may take GPUs that
no earlier living ticket names, and only as many as it needs, at once. So nobody holds one GPU while waiting for another
(no deadlock), a task that needs all of them is not overtaken forever by tasks that need one (no starvation), and tasks
that want different GPUs do not wait for each other. Tickets and GPUs are only looked at under an outer lock, which is
held for a moment.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from airflow_mullama.gpus.devices import Gpu
from airflow_mullama.gpus.locks import read_holder, try_lock, try_lock_path, write_holder

OUTER_LOCK = "queue.lock"
OUTER_POLL_SECONDS = 0.01
TICKET_BYTES = 64 << 10

_TICKET = re.compile(r"ticket-(\d{1,18})", re.ASCII)


@dataclass(frozen=True)
class Taken:
    """What a waiter got.

    Args:
        gpus: as many as it needed.
        descriptors: of their lock files, locked; the GPUs are free when every copy of these is closed.
    """

    gpus: tuple[Gpu, ...]
    descriptors: tuple[int, ...]


@dataclass(frozen=True)
class Occupied:
    """Why a waiter waits.

    Args:
        taken: GPUs that would do and have a holder.
        holders: of these, where they say so, such as ``pid 71``.
        earlier: tickets before this one that name a GPU that would do.
    """

    taken: int
    holders: tuple[str, ...]
    earlier: int


class Ticket:
    """A place in the queue; a context manager.

    Args:
        directory: of the lock files.
        gpus: those that would do.
        count: how many of them are needed.
        raise_if_stopped: called while the outer lock is waited for; what it raises ends the waiting.
    """

    def __init__(self, directory: Path, gpus: Sequence[Gpu], count: int, raise_if_stopped: Callable[[], None]) -> None:
        self._directory = directory
        self._gpus = {_lock_name(gpu): gpu for gpu in gpus}
        self._count = count
        self._raise_if_stopped = raise_if_stopped
        with self._outer_lock():
            self._number = max(_ticket_numbers(directory), default=0) + 1
            self._path = directory / f"ticket-{self._number}"
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW)
            os.fchmod(self._descriptor, 0o644)  # others look into it and try its lock
            os.write(self._descriptor, "\n".join(self._gpus).encode())
            try_lock(self._descriptor)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        os.close(self._descriptor)

    def attempt(self) -> Taken | Occupied:
        """Take what is needed, if it is there."""
        with self._outer_lock(), contextlib.ExitStack() as unused:
            earlier = [named for named in self._earlier_tickets() if named & self._gpus.keys()]
            free: dict[str, int] = {}
            for name in self._gpus:
                descriptor = try_lock_path(self._directory / name)
                if descriptor is not None:
                    unused.callback(os.close, descriptor)
                    free[name] = descriptor
            usable = [name for name in free if not any(name in named for named in earlier)][: self._count]
            if len(usable) < self._count:
                taken = [name for name in self._gpus if name not in free]
                holders = dict.fromkeys(read_holder(self._directory / name) for name in taken)
                return Occupied(len(taken), tuple(filter(None, holders)), len(earlier))
            unused.pop_all()
            for name, descriptor in free.items():
                if name in usable:
                    write_holder(descriptor)
                else:
                    os.close(descriptor)
            return Taken(tuple(self._gpus[name] for name in usable), tuple(free[name] for name in usable))

    def _earlier_tickets(self) -> Iterator[frozenset[str]]:
        """The lock files that each earlier living ticket names. Those of the dead are removed."""
        for number in _ticket_numbers(self._directory):
            if number >= self._number:
                continue
            path = self._directory / f"ticket-{number}"
            with contextlib.ExitStack() as closing:
                try:
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                except OSError:
                    continue  # its owner has what it wanted, or it is not a ticket
                closing.callback(os.close, descriptor)
                if try_lock(descriptor):
                    with contextlib.suppress(OSError):  # another user's stays
                        os.unlink(path)
                    continue
                yield frozenset(os.read(descriptor, TICKET_BYTES).decode("utf-8", "replace").split("\n"))

    @contextlib.contextmanager
    def _outer_lock(self) -> Iterator[None]:
        while (descriptor := try_lock_path(self._directory / OUTER_LOCK)) is None:
            self._raise_if_stopped()
            time.sleep(OUTER_POLL_SECONDS)
        try:
            yield
        finally:
            os.close(descriptor)


def _ticket_numbers(directory: Path) -> list[int]:
    return sorted(int(found[1]) for name in os.listdir(directory) if (found := _TICKET.fullmatch(name)))


def _lock_name(gpu: Gpu) -> str:
    return f"{re.sub('[^0-9A-Za-z-]', '_', gpu.id)}.lock"
