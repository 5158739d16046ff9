"""The same questions over llama.cpp's own HTTP route, which alone takes pictures beside a prompt.

With a projector loaded, ``xllamacpp.Server.handle_completions`` takes neither pictures nor token ids: it reads a prompt
as plain text. ``/completion`` takes both, in its own shape (llama.cpp ``tools/server/README.md``).
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Mapping
from typing import Any

from airflow_mullama.engines.llamacpp.completions import Completions, Unwanted, Written, row_error
from airflow_mullama.engines.llamacpp.local_server import LocalServer
from airflow_mullama.rows import ErrorType, RowError

# With any other end there is no end that the model chose: so llama.cpp itself counts for its other routes.
WHOLE = ("eos", "word")
UNDECODABLE = "Failed to load image"


class HttpCompletions(Completions):
    """Asks over a connection of each thread's own.

    Args:
        server: any connection to it.
        row_timeout: seconds one row may take.
    """

    def __init__(self, server: LocalServer, row_timeout: float | None) -> None:
        super().__init__(None, row_timeout)
        self._first = server
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        self._connections: list[LocalServer] = []

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()

    def ask(
        self, body: Mapping[str, Any], deadline: float | None, unwanted: Unwanted | None = None
    ) -> Written | RowError:
        seconds = None if deadline is None else max(0.001, deadline - time.monotonic())
        sent = {name: value for name, value in body.items() if name not in ("logprobs", "verbose")}
        if "logprobs" in body:
            sent["n_probs"] = body["logprobs"]
        try:
            answer = self._connection.ask("/completion", sent, seconds)
        except TimeoutError:  # closing the connection ends the work, too
            return RowError(ErrorType.TIMEOUT, f"the answer took longer than row_timeout={self._row_timeout:g} s")
        except (OSError, http.client.HTTPException) as error:
            return RowError(ErrorType.ENGINE_ERROR, f"llama.cpp gave no answer: {type(error).__name__}: {error}")
        if "error" in answer:
            refusal = row_error(answer)
            undecodable = UNDECODABLE in refusal.message
            return RowError(ErrorType.UNREADABLE_IMAGE, refusal.message) if undecodable else refusal
        text = str(answer["content"])
        if unwanted is not None and unwanted(text):
            return Written(text, cut=False, prompt_tokens=0, completion_tokens=0, unwanted=True)
        return Written(
            text=text,
            cut=answer["stop_type"] not in WHOLE,
            prompt_tokens=answer["tokens_evaluated"],
            completion_tokens=answer["tokens_predicted"],
            cached_tokens=(answer.get("timings") or {}).get("cache_n"),
            probabilities=answer.get("completion_probabilities") or (),
            tokens=answer.get("tokens") or None,
            stop_text=answer.get("stopping_word") or "",
        )

    @property
    def _connection(self) -> LocalServer:
        if not hasattr(self._of_thread, "connection"):
            self._of_thread.connection = connection = self._first.another()
            with self._lock:
                self._connections.append(connection)
        connection = self._of_thread.connection
        assert isinstance(connection, LocalServer)
        return connection
