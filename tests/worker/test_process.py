"""The worker process itself: what it answers, how it ends, what it leaves."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.errors import ConfigurationError, ModelLoadError
from airflow_mullama.models.resolve import locate_model
from airflow_mullama.worker.client import (
    Exited,
    Outcomes,
    Refused,
    Started,
    Stuck,
    Worker,
    describe_exit,
    request_batch,
)

pytestmark = pytest.mark.usefixtures("no_worker_left", "workers_by_command")


@pytest.fixture
def scratch_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="t") as root:  # pytest's own have names too long for a socket
        monkeypatch.setattr(tempfile, "tempdir", root)
        yield Path(root)


class Child:
    """A worker with its events at hand."""

    def __init__(
        self,
        engine: str = "echo",
        model: str = "echo",
        row_timeout: float | None = None,
        load_timeout: float = 600.0,
        **options: Any,
    ) -> None:
        settings = {"max_tokens": 100, "sampling": {}, "chat": None}
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.worker = Worker(
            engine,
            EngineSettings(
                task="generate",
                model=model,
                options=options,
                settings=settings,
                row_timeout=row_timeout,
                load_timeout=load_timeout,
            ),
            self.events.put,
        )

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.worker.pid)

    def next(self, kind: type) -> Any:
        event = self.events.get(timeout=30)
        assert isinstance(event, kind), event
        return event

    def ask(self, *texts: str) -> None:
        rows = range(len(texts))
        self.worker.send(
            request_batch(
                pa.array(rows, pa.int64()), pa.array([1] * len(texts), pa.int32()), pa.array(texts, pa.large_string())
            )
        )


@pytest.fixture
def children() -> Iterator[list[Child]]:
    made: list[Child] = []
    yield made
    for child in made:
        child.worker.stop()


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_it_says_that_it_is_ready_and_answers(children: list[Child]) -> None:
    children.append(child := Child(n_parallel=2))
    info = child.next(Started).info
    assert (info.engine, info.n_parallel) == ("echo", 2)
    child.ask("a", "🧾")
    found: dict[int, str] = {}
    while len(found) < 2:
        batch = child.next(Outcomes).batch
        found.update(zip(batch.column("row").to_pylist(), batch.column("response").to_pylist(), strict=True))
    assert found == {0: "a", 1: "🧾"}


def test_it_does_without_pandas(children: list[Child]) -> None:
    children.append(child := Child())
    child.next(Started)
    child.ask("a")
    child.next(Outcomes)  # made of arrays, and PyArrow would have imported it for the first of them
    mapped = [mapping.path for mapping in child.process.memory_maps()]
    assert any("/pyarrow/" in path for path in mapped)
    assert [path for path in mapped if "/pandas/" in path] == []


def test_stopping_leaves_neither_process_nor_scratch(children: list[Child], scratch_root: Path) -> None:
    pytest.importorskip("xllamacpp")
    path, _ = locate_model("demo:ticket-tagger")
    children.append(child := Child("llamacpp", str(path), n_threads=1, n_parallel=1))
    child.next(Started)
    (scratch,) = scratch_root.iterdir()
    assert [file.name for file in scratch.iterdir()] == ["engine.sock"]
    child.worker.stop()
    assert not psutil.pid_exists(child.worker.pid)
    assert list(scratch_root.iterdir()) == []
    child.worker.stop()


def test_an_engine_without_a_socket_gets_no_scratch(children: list[Child], scratch_root: Path) -> None:
    children.append(child := Child())
    child.next(Started)
    assert list(scratch_root.iterdir()) == []


def test_stopping_ends_a_worker_that_hangs_or_loads(children: list[Child]) -> None:
    children.append(loading := Child())
    loading.worker.stop()
    assert not psutil.pid_exists(loading.worker.pid)
    children.append(hanging := Child(faults={"hang": [0]}))
    hanging.next(Started)
    hanging.ask("x")
    hanging.worker.stop()
    assert not psutil.pid_exists(hanging.worker.pid)


def test_a_death_is_told_with_its_signal(children: list[Child]) -> None:
    children.append(child := Child())
    child.next(Started)
    child.process.send_signal(signal.SIGSEGV)
    exited = child.next(Exited)
    assert exited.worker is child.worker
    assert exited.how == "was killed by SIGSEGV"


@pytest.mark.timeout(60)
def test_a_death_at_once_is_told_too(children: list[Child], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    for _ in range(100):
        children.append(child := Child())
        assert child.next(Exited).how == "exited with status 0"
        child.worker.stop()


def test_signals_to_the_whole_group_do_not_end_it(children: list[Child]) -> None:
    children.append(child := Child())
    child.next(Started)
    child.process.send_signal(signal.SIGTERM)
    child.process.send_signal(signal.SIGINT)
    child.ask("still here")
    assert child.next(Outcomes).batch.column("response").to_pylist() == ["still here"]


def test_a_refusal_comes_with_its_own_class(children: list[Child]) -> None:
    children.append(child := Child(faults={"explode": [1]}))
    refused = child.next(Refused).error
    assert isinstance(refused, ConfigurationError)
    assert "'explode'" in str(refused)
    assert child.next(Exited).how == "exited with status 1"


def test_a_row_past_its_timeout_is_named_and_the_worker_leaves(children: list[Child]) -> None:
    children.append(child := Child(row_timeout=0.1, faults={"hang": [1]}))
    child.next(Started)
    child.ask("fine", "hangs")
    assert child.next(Outcomes).batch.column("row").to_pylist() == [0]
    assert child.next(Stuck).rows == (1,)
    child.next(Exited)


PARENT = """
import sys
from airflow_mullama import GenerateJob, run_partition
options = {"faults": {"hang": [0]}}
run_partition(GenerateJob(model="echo", prompt_template="{text}", engine_options=options), *sys.argv[1:])
"""


@pytest.mark.parametrize("moment", ["while it works", "while it loads", "while it cannot run"])
def test_a_worker_whose_parent_is_killed_leaves_by_itself(
    tmp_path: Path, write_parquet: Any, workers: Any, eventually: Any, moment: str
) -> None:
    if moment == "while it cannot run" and sys.platform != "linux":
        pytest.skip("only Linux ends a process with its parent")
    source = write_parquet(tmp_path / "a.parquet", ["x"])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(source), str(tmp_path / "out.parquet")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with parent:
        (worker,) = eventually(lambda: workers(parent.pid))
        if moment != "while it loads":
            eventually(lambda: worker.num_threads() > 5)  # the engine's threads: it has started
        if moment == "while it cannot run":  # as where native code holds the interpreter lock
            worker.suspend()
        parent.kill()
        parent.wait()
        eventually(lambda: gone(worker))


def test_a_worker_that_does_not_get_ready_is_given_up(children: list[Child]) -> None:
    children.append(child := Child(load_timeout=1.0))
    child.process.suspend()
    refused = child.next(Refused).error
    assert isinstance(refused, ModelLoadError)
    assert "Loading 'echo' was given up" in str(refused)
    assert "load_timeout=1 s" in str(refused)
    child.next(Exited)


def test_the_environment_of_a_worker_has_no_secrets(children: list[Child], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgres://user:hush@host/db")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    children.append(child := Child())
    child.next(Started)
    environment = child.process.environ()
    assert environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert "hush" not in str(environment)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with status 0"),
        (3, "exited with status 3"),
        (-signal.SIGKILL, "was killed by SIGKILL (often: the machine ran out of memory)"),
        (-signal.SIGABRT, "was killed by SIGABRT (the engine aborted)"),
        (-200, "was killed by signal 200"),
    ],
)
def test_ends_are_put_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words
