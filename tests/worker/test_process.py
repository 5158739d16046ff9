"""The worker process itself: what it answers, how it ends, what it leaves."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import stat
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
from airflow_mullama.errors import ConfigurationError
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

pytestmark = pytest.mark.usefixtures("no_worker_left")


@pytest.fixture
def scratch_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "tmp"
    root.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(root))
    return root


class Child:
    """A worker with its events at hand."""

    def __init__(self, task: Any = "generate", row_timeout: float | None = None, **options: Any) -> None:
        settings = {"max_tokens": 100, "sampling": {}, "chat": None} if task == "generate" else {}
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.worker = Worker(
            "echo",
            EngineSettings(task=task, model="echo", options=options, settings=settings, row_timeout=row_timeout),
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


def test_stopping_leaves_neither_process_nor_scratch(children: list[Child], scratch_root: Path) -> None:
    children.append(child := Child())
    child.next(Started)
    (scratch,) = scratch_root.iterdir()
    assert stat.S_IMODE(scratch.stat().st_mode) == 0o700
    child.worker.stop()
    assert not psutil.pid_exists(child.worker.pid)
    assert list(scratch_root.iterdir()) == []
    child.worker.stop()


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


@pytest.mark.parametrize("moment", ["while it works", "while it loads"])
def test_a_worker_whose_parent_is_killed_leaves_by_itself_with_its_scratch(
    tmp_path: Path, write_parquet: Any, workers: Any, eventually: Any, moment: str
) -> None:
    source = write_parquet(tmp_path / "a.parquet", ["x"])
    scratch_root = tmp_path / "tmp"
    scratch_root.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(scratch_root)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(source), str(tmp_path / "out.parquet")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stderr is not None
    with parent:
        (worker,) = eventually(lambda: workers(parent.pid))
        assert list(scratch_root.iterdir()) != []
        if moment == "while it works":
            eventually(lambda: worker.num_threads() > 5)  # the engine's threads: it has started
        parent.kill()
        parent.wait()
        eventually(lambda: gone(worker))
        eventually(lambda: list(scratch_root.iterdir()) == [])


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
