"""GPUs for one task alone, among all tasks of a machine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from airflow_mullama.background import run_in_background
from airflow_mullama.gpus.devices import Gpu, list_gpus, worker_environment
from airflow_mullama.gpus.locks import lock_directory
from airflow_mullama.gpus.queueing import Occupied, Taken, Ticket
from airflow_mullama.gpus.request import GpuRequest

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
# The descriptor of its GPU's lock file, in a worker's environment.
LOCK_VARIABLE = "AIRFLOW_MULLAMA_GPU_LOCK_DESCRIPTOR"


@dataclass
class GpuLease:
    """GPUs that no other task of this machine gets until this is closed; a context manager.

    Args:
        gpus: the GPUs; none if none was asked for.
        descriptors: of their lock files.
        environments: for each worker process, the variables it gets on top of this process's: one for each GPU; without
            a GPU, one that changes nothing.
        waited_seconds: how long all were taken.
    """

    gpus: tuple[Gpu, ...] = ()
    descriptors: tuple[int, ...] = ()
    waited_seconds: float = 0.0
    environments: list[Mapping[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        self.environments = [
            {**worker_environment(gpu), LOCK_VARIABLE: str(descriptor)}
            for gpu, descriptor in zip(self.gpus, self.descriptors, strict=True)
        ] or [{}]

    @property
    def names(self) -> tuple[str, ...]:
        """The GPUs, for people."""
        return tuple(map(str, self.gpus))

    def __enter__(self) -> GpuLease:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the GPUs back. One whose worker still runs is free when that has ended."""
        # Closed, not unlocked: unlocking would take the lock from a worker that holds the same one.
        descriptors, self.descriptors = self.descriptors, ()
        for descriptor in descriptors:
            os.close(descriptor)


def lease_gpus(
    request: GpuRequest,
    raise_if_stopped: Callable[[], None] = lambda: None,
    announce: Callable[[str], None] = log.info,
) -> GpuLease:
    """Wait until the GPUs that are asked for are free, and take them, all at once.

    Tasks of a machine agree through lock files in one directory (``AIRFLOW_MULLAMA_GPU_LOCKS``). A GPU is free again
    when the lease is closed or its process has died, however it did, and the worker that computes on it is gone too.

    Args:
        request: how many GPUs, or which.
        raise_if_stopped: called often while waiting; what it raises ends the waiting, and nothing is kept.
        announce: takes a line when all are taken, and one when it has them.

    Raises:
        GpuNotAvailableError: more are asked for than this process may use, or some that it may not.
        ConfigurationError: the lock files cannot be used.
    """
    if request.gpus is None:
        return GpuLease()
    inventory = run_in_background(lambda check: list_gpus(), raise_if_stopped, "mullama-list-gpus")
    candidates, count = request.candidates(inventory)
    if not count:
        announce(f"gpus={request.gpus!r} leases nothing: this task may use no GPU ({inventory.reason})")
        return GpuLease()
    directory = lock_directory()
    started_at = time.monotonic()
    waited = False
    with Ticket(directory, candidates, count, raise_if_stopped) as ticket:
        while isinstance(outcome := ticket.attempt(), Occupied):
            if not waited:
                announce(_waiting_words(outcome, count, len(candidates)))
            waited = True
            raise_if_stopped()
            time.sleep(POLL_SECONDS)
    assert isinstance(outcome, Taken)
    lease = GpuLease(outcome.gpus, outcome.descriptors, time.monotonic() - started_at if waited else 0.0)
    after = f" after waiting for {lease.waited_seconds:.0f} s" if waited else ""
    announce(f"computing on {', '.join(lease.names)}{after}")
    return lease


def inherited_descriptors(environment: Mapping[str, str]) -> tuple[int, ...]:
    """What a worker process with one of a lease's environments is to inherit (``subprocess.Popen(pass_fds=…)``).

    With it the lock of its GPU lasts as long as the worker, also if the task is killed first.
    """
    descriptor = environment.get(LOCK_VARIABLE)
    return () if descriptor is None else (int(descriptor),)


def _waiting_words(occupied: Occupied, count: int, candidates: int) -> str:
    wanted = "a GPU" if count == 1 else f"{count} GPUs"
    by = f" by {', '.join(occupied.holders)}" if occupied.holders else ""
    words = f"waiting for {wanted}: {occupied.taken} of {candidates} are taken{by}"
    if occupied.earlier:
        words += f"; {occupied.earlier} {'task waits' if occupied.earlier == 1 else 'tasks wait'} longer"
    return words
