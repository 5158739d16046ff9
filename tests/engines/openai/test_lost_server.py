"""A server that goes away with rows in flight, for real: a process that a text ends, with and without a supervisor."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from openai_server import MODEL

from airflow_mullama import EmbedJob, GenerateJob, run_partition
from airflow_mullama.errors import EndpointUnavailableError

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_worker_left")]

PROGRAM = Path(__file__).parents[1] / "mortal_server.py"
TEXTS = [f"row {number}" for number in range(8)]


class MortalServer:
    """A server in a process of its own, on a port that stays the same."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        self.log = folder / "asked.log"
        self.log.touch()
        self.starts = 0
        self._supervised = False
        self._supervisor: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def asked(self) -> list[str]:
        """Every row's text that was asked, trials left out."""
        return [line for line in self.log.read_text().splitlines() if line.startswith(("row", "poison", "never"))]

    def start(self) -> None:
        if self.starts:
            self.process.wait()  # it has ended
        self.starts += 1
        environment = {**os.environ, "MORTAL_SERVER_LOG": str(self.log)}
        self.process = subprocess.Popen([sys.executable, str(PROGRAM), str(self.port)], env=environment)

    def supervise(self) -> None:
        """Start it again whenever it ends."""
        self._supervised = True

        def restart_forever() -> None:
            while True:
                self.process.wait()
                if not self._supervised:
                    return
                self.start()

        self._supervisor = threading.Thread(target=restart_forever)
        self._supervisor.start()

    def close(self) -> None:
        self._supervised = False
        self.process.kill()
        if self._supervisor is not None:
            self._supervisor.join()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path, eventually: Callable[..., Any]) -> Iterator[MortalServer]:
    one = MortalServer(tmp_path)
    one.start()
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def ask(tmp_path: Path, write_parquet: Callable[..., Path], server: MortalServer, answering: Callable[[], None]) -> Any:
    def run(texts: list[str], *, embed: bool = False, max_wait: float = 60.0, **arguments: Any) -> list[dict[str, Any]]:
        answering()
        source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
        if not source.exists():
            write_parquet(source, texts)
        options = {"endpoint": server.url, "max_wait": max_wait, "n_parallel": 3}
        common: dict[str, Any] = {"model": MODEL, "engine": "openai", "engine_options": options, "max_error_ratio": 1.0}
        job: Any = EmbedJob if embed else GenerateJob
        made = job(**{"text_column" if embed else "prompt_column": "text"}, **common, **arguments)
        run_partition(made, source, target, listeners=[])
        rows: list[dict[str, Any]] = pq.read_table(target).to_pylist()
        assert [row["text"] for row in rows] == texts
        return rows

    return run


@pytest.fixture
def answering(server: MortalServer, eventually: Callable[..., Any]) -> Callable[[], None]:
    """Wait until the server listens."""

    def listens() -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", server.port)) == 0

    return lambda: eventually(listens)


def types(rows: list[dict[str, Any]]) -> list[str | None]:
    return [row["error_type"] for row in rows]


@pytest.mark.parametrize("embed", [False, True])
def test_a_text_that_ends_the_server_is_found_and_costs_no_other_row(
    server: MortalServer, ask: Any, embed: bool
) -> None:
    server.supervise()
    rows = ask([*TEXTS[:4], "poison", *TEXTS[4:]], embed=embed)
    assert types(rows) == [None] * 4 + ["engine_crash"] + [None] * 4
    assert "lost its server" in rows[4]["error"]
    assert server.starts == 3  # it died twice of that text


def test_rows_wait_for_a_server_that_is_restarted(server: MortalServer, ask: Any, eventually: Any) -> None:
    def restart() -> None:
        eventually(lambda: len(server.asked) > 20)
        server.process.kill()
        server.start()

    texts = [f"row {number}" for number in range(400)]
    thread = threading.Thread(target=restart)
    thread.start()
    rows = ask(texts)
    thread.join()
    assert types(rows) == [None] * len(texts)


def test_without_one_that_comes_back_the_task_ends_and_the_next_attempts_find_the_row(
    server: MortalServer, ask: Any
) -> None:
    texts = [*TEXTS[:2], "poison", *TEXTS[2:]]
    with pytest.raises(EndpointUnavailableError, match="went away with rows in flight"):
        ask(texts, max_wait=0.1, chunk_rows=1)
    first = server.asked
    server.start()
    with pytest.raises(EndpointUnavailableError, match="went away with rows in flight"):
        ask(texts, max_wait=0.1, chunk_rows=1)
    second = server.asked[len(first) :]
    # Those that the server had when it died come last, and the one that ended it again comes alone.
    assert second[-1] == "poison" or second.index("poison") >= len(set(texts) - set(first))
    server.start()
    rows = ask(texts, max_wait=0.1, chunk_rows=1)
    third = server.asked[len(first) + len(second) :]
    assert "poison" not in third
    assert types(rows) == [None, None, "engine_crash", *[None] * 6]
    assert "2 times on this row" in rows[2]["error"]


def test_a_failure_in_the_same_words_whenever_a_row_is_asked_is_the_rows_own(server: MortalServer, ask: Any) -> None:
    texts = ["never answered", *TEXTS]
    rows = ask(texts, max_retries=1)
    assert types(rows) == ["request_refused", *[None] * len(TEXTS)]
    assert rows[0]["attempts"] == 2
    asked = len(server.asked)
    assert types(ask(texts, max_retries=1)) == types(rows)
    assert len(server.asked) == asked  # it is not asked again for that row
