"""Workers that are forks of a process that has imported what all of them import: started in a tenth of the time.

Otherwise they behave as they do for users, except for what :mod:`tests.forked_process` says. A test of how they start,
what they inherit or when they end without a word asks for the fixture ``workers_by_command``.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_mullama.worker import client
from tests.forked_process import ForkServer

WORKER_MODULE = "airflow_mullama.worker"
IMPORTS = (
    f"{WORKER_MODULE}.host",
    "airflow_mullama.engines.echo",
    "airflow_mullama.engines.llamacpp.engine",
    "airflow_mullama.engines.openai.engine",
)
# Where it is installed the tests are those of this engine, and it takes seconds of CPU to import.
HEAVY_IMPORT = "sentence_transformers"


class ForkedWorkers:
    """Stands in for :func:`airflow_mullama.worker.client.start_process`; :attr:`by_command` is that."""

    def __init__(self) -> None:
        self.by_command = client.start_process
        self.count = 0
        self._server: ForkServer | None = None
        self._lock = threading.Lock()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]) -> Any:
        """Fork a worker, and count it."""
        if descriptors:  # nothing is inherited from a process that is not the parent
            return self.by_command(arguments, environment, descriptors)
        with self._lock:
            self.count += 1
            server = self._server = self._server or started_server()
        return server.start_with_pipes(f"{WORKER_MODULE}.host", *arguments, environment=environment)

    @property
    def parent(self) -> int | None:
        """The process whose children they are, if there were any yet."""
        return self._server and self._server.pid

    def close(self) -> None:
        """End that process."""
        if self._server is not None:
            self._server.close()


def started_server() -> ForkServer:
    """Start the process that workers are forks of."""
    heavy = [HEAVY_IMPORT] if importlib.util.find_spec(HEAVY_IMPORT) else []
    # As the engine sets it before that import; forked workers cannot show that it does.
    return ForkServer(*IMPORTS, *heavy, HF_HUB_OFFLINE="1")
