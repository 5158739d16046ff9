"""Forks processes that find everything imported, one after the other. Run as a script; lines of JSON go both ways.

An order is ``{"module", "arguments", "environment", "stderr"}``: the new process leads a session of its own and runs
the module's ``main``; what it prints goes to the file ``stderr``. It says its process id once it is what was ordered;
when it has ended, this one says its exit status.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

MODULES = ("broken_attempt", "held_cli", "airflow_mullama.commands.main")
# What they import only once they run.
IMPORTED = ("airflow_mullama.commands.terminal", "airflow_mullama.jobs.generate", "airflow_mullama.run.runner")


def say(descriptor: int, value: int) -> None:
    os.write(descriptor, f"{value}\n".encode())


def become(order: dict[str, Any]) -> Callable[[], None]:
    """Make this process the one that was ordered; what it is to run."""
    answers = os.dup(1)
    os.setsid()
    os.environ.update(order["environment"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    printed = os.open(order["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for source, target in ((nothing, 0), (printed, 1), (printed, 2)):
        os.dup2(source, target)
    for descriptor in (nothing, printed):
        os.close(descriptor)
    sys.argv = [order["module"], *order["arguments"]]
    say(answers, os.getpid())
    os.close(answers)
    run: Callable[[], None] = importlib.import_module(order["module"]).main
    return run


def serve() -> Callable[[], None] | None:
    """Fork until there are no more orders. Returns in every forked process too, with what it is to run."""
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            return become(json.loads(line))
        say(1, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return None


if __name__ == "__main__":
    # PyArrow's allocator has a thread of its own, and Python warns of that. It is prepared for being forked.
    warnings.simplefilter("ignore", DeprecationWarning)
    for name in (*MODULES, *IMPORTED):
        importlib.import_module(name)
    if run := serve():
        warnings.resetwarnings()
        run()  # as it would from a start: the process ends when the interpreter does
