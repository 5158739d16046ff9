"""Processes that a fork server starts, without the time that their imports take.

Otherwise they are like any other, except that their parent, and what ``/proc`` tells of their command line and
environment, are the fork server's.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

from airflow_mullama.child_process import import_path

SCRIPT = Path(__file__).with_name("fork_server.py")
PATIENCE_SECONDS = 60.0


def pipe(buffering: int = -1) -> tuple[BinaryIO, BinaryIO]:
    """The end to read from, and the end to write to."""
    read, write = os.pipe()
    return os.fdopen(read, "rb", buffering), os.fdopen(write, "wb", buffering)


class ForkedProcess:
    """A process of a fork server's, as :class:`subprocess.Popen` shows one.

    Args:
        answers: where its id comes from, and its exit status. If nothing comes the server is gone, and it with that.
    """

    def __init__(self, answers: BinaryIO) -> None:
        self._answers = answers
        self._asked = threading.Lock()
        self.returncode: int | None = None
        self.stdin: BinaryIO | None = None
        self.stdout: BinaryIO | None = None
        self.stderr: BinaryIO | None = None
        said = self._answer(PATIENCE_SECONDS)
        assert "pid" in said, "the fork server is gone"
        self.pid = said["pid"]
        if "status" in said:  # it was killed before it had begun
            self._ended(said["status"])

    def _answer(self, timeout: float | None) -> dict[str, int]:
        readable, _, _ = select.select([self._answers], [], [], timeout)
        assert readable, f"nothing was heard within {timeout:g} s"
        answer: dict[str, int] = json.loads(self._answers.readline() or "{}")
        return answer

    def _ended(self, status: int) -> None:
        self.returncode = status
        self._answers.close()

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, or the negative number of the signal that ended it.

        Args:
            timeout: the most seconds to wait for it.
        """
        with self._asked:
            if self.returncode is None:
                self._ended(self._answer(timeout).get("status", -signal.SIGKILL))
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """Send SIGKILL, if it still runs."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class ForkServer:
    """Forks processes that have imported some modules already.

    Args:
        modules: to import.
        environment: variables for importing them, over those of this process.
    """

    def __init__(self, *modules: str, **environment: str) -> None:
        self._orders, orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with orders:
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPT), *modules],
                stdin=orders,
                env={**os.environ, "PYTHONPATH": import_path(), **environment},
            )

    @property
    def pid(self) -> int:
        """The server's process id: all that it starts are its children."""
        return self._process.pid

    def start(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str],
        streams: Sequence[IO[Any]],
        session: bool = False,
    ) -> ForkedProcess:
        """Run a module's ``main`` in a process of its own, in this one's current directory.

        Args:
            module: its name.
            arguments: what it finds in ``sys.argv``.
            environment: all of it.
            streams: its standard input, output and error.
            session: whether it leads a session of its own.
        """
        order = {
            "module": module,
            "arguments": arguments,
            "environment": dict(environment),
            "folder": os.getcwd(),
            "session": session,
        }
        answers, its_answers = pipe(buffering=0)  # what is read beyond a line could not be waited for
        with its_answers:
            descriptors = [stream.fileno() for stream in (*streams, its_answers)]
            socket.send_fds(self._orders, [json.dumps(order).encode()], descriptors)
        return ForkedProcess(answers)

    def start_with_pipes(self, module: str, *arguments: str, environment: Mapping[str, str]) -> ForkedProcess:
        """The same, with this process at the other ends of its streams."""
        (its_input, stdin), (stdout, its_output), (stderr, its_errors) = pipe(), pipe(), pipe()
        with its_input, its_output, its_errors:
            streams = (its_input, its_output, its_errors)
            process = self.start(module, *arguments, environment=environment, streams=streams)
        process.stdin, process.stdout, process.stderr = stdin, stdout, stderr
        return process

    def close(self) -> None:
        """End the server; workers that still run are killed with it."""
        self._orders.close()
        self._process.wait(PATIENCE_SECONDS)
