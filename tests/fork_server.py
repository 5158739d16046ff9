"""Forks processes that find everything imported. Run as a script, with the names of the modules to import.

Orders come over the socket on standard input: JSON, ``{"module", "arguments", "environment", "folder", "session"}``,
beside the descriptors of the new process's standard input, output and error and of a pipe. The new process says its id
there, ``{"pid"}``, once it is what was ordered, then runs the module's ``main``; when it has ended, this one says how,
``{"pid", "status"}``.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

LARGEST_ORDER = 1 << 20


def say(descriptor: int, **what: int) -> None:
    """Write a line, which is the last word from this process there."""
    try:
        os.write(descriptor, json.dumps(what).encode() + b"\n")
    except BrokenPipeError:
        pass  # nobody waits for it any more
    finally:
        os.close(descriptor)


def become(order: dict[str, Any], descriptors: Sequence[int]) -> Callable[[], None]:
    """Make this process the one that was ordered; what it is to run."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if order["session"]:
        os.setsid()
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.path[:0] = order["environment"]["PYTHONPATH"].split(os.pathsep)
    for target, source in enumerate(descriptors):
        os.dup2(source, target)
    answers = len(descriptors) - 1
    os.closerange(len(descriptors), os.sysconf("SC_OPEN_MAX"))
    sys.argv = [order["module"], *order["arguments"]]
    say(answers, pid=os.getpid())
    run: Callable[[], None] = importlib.import_module(order["module"]).main
    return run


def serve() -> Callable[[], None] | None:
    """Fork until nobody can order any more. Returns in every forked process too, with what it is to run."""
    orders = socket.socket(fileno=0)
    ended, wake_up = os.pipe()
    for descriptor in (ended, wake_up):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wake_up)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([orders, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            for child in list(running):
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    say(running.pop(child), pid=child, status=os.waitstatus_to_exitcode(status))
        if orders in ready:
            message, descriptors, _, _ = socket.recv_fds(orders, LARGEST_ORDER, 4)
            if not message:
                return None
            child = os.fork()
            if child == 0:
                orders.detach()
                return become(json.loads(message), descriptors)
            running[child] = descriptors.pop()
            for descriptor in descriptors:
                os.close(descriptor)


if __name__ == "__main__":
    del sys.path[0]  # this folder, whose subfolders have names that other packages may have
    # PyArrow's allocator has a thread of its own, and Python warns of that. It is prepared for being forked.
    warnings.simplefilter("ignore", DeprecationWarning)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    if run := serve():
        warnings.resetwarnings()
        run()  # as it would from a start: the process ends when the interpreter does
