"""llama.cpp's own HTTP server in a process of its own: what several clients are measured against.

It keeps no prompts but the last of each slot: a cache of prompts would flatter whoever asks the same rows later.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

MODEL_NAME = "served"
CONTEXT_OF_A_SLOT = 512


@dataclass(frozen=True)
class LlamaServer:
    """A running server.

    Attributes:
        url: of its OpenAI endpoints.
        process: to read its CPU time from.
    """

    url: str
    process: psutil.Process


@contextlib.contextmanager
def llama_server(model_path: str, n_parallel: int) -> Iterator[LlamaServer]:
    command = [sys.executable, __file__, model_path, str(n_parallel)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            if not address:
                raise RuntimeError(f"llama.cpp's server does not start with {model_path}.")
            yield LlamaServer(f"{address}/v1", psutil.Process(process.pid))
        finally:
            process.kill()


def serve(model_path: str, n_parallel: int) -> None:
    """Until the standard input closes."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = model_path
    parameters.model_alias = {MODEL_NAME}
    parameters.n_parallel = n_parallel
    parameters.n_ctx = n_parallel * CONTEXT_OF_A_SLOT
    parameters.n_batch = parameters.n_ubatch = 512
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.hostnames = ["127.0.0.1"]
    parameters.fit_params = parameters.warmup = parameters.ui = False
    parameters.cache_ram_mib = 0
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
