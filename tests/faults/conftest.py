"""What the tests of this folder share: a partition, how it is broken, and what must be true afterwards."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import fail_points as steps
from airflow_mullama.child_process import import_path
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.run.runner import run_partition
from airflow_mullama.storage.staging.stage import CHECKSUM, STAGE_FOLDER
from tests.forked_process import PATIENCE_SECONDS, ForkedProcess, ForkServer

ROWS = 120
ROWS_PER_FILE = 10  # several files, so that the input is read in several batches
CHUNK_ROWS = 5
N_PARALLEL = 2
WINDOW = 2 * N_PARALLEL  # echo takes one row a call once it has a delay
NULL_EVERY = 17

# Another process finds the package where this one found it.
ENVIRONMENT = {**os.environ, "PYTHONPATH": import_path()}
# What is run in sessions of its own, and what that imports only once it runs.
MODULES = ("tests.faults.broken_attempt", "tests.faults.held_cli", "airflow_mullama.commands.main")
IMPORTED = ("airflow_mullama.commands.terminal", "airflow_mullama.jobs.generate", "airflow_mullama.run.runner")


class InjectedError(Exception):
    """What a test raises where nothing would fail by itself."""


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead process loses nothing that it wrote, only a dead machine does; a busy disk proves nothing."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="session")
def script_environment() -> dict[str, str]:
    return ENVIRONMENT


@pytest.fixture
def injected_error() -> type[Exception]:
    return InjectedError


def data_pages(path: Path) -> bytes:
    """A Parquet file's data, byte by byte: all of it before the footer, which carries times and counts of the run."""
    metadata = pq.read_metadata(path)
    end = 4
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            start = chunk.data_page_offset
            if chunk.has_dictionary_page:
                start = min(start, chunk.dictionary_page_offset)
            end = max(end, start + chunk.total_compressed_size)
    return path.read_bytes()[:end]


def staged_files(output: Path) -> list[Path]:
    return sorted((output.parent / STAGE_FOLDER).glob(f"{output.name}/*/rows-*.arrow"))


def staged_rows(output: Path) -> set[int]:
    """Rows whose outcome is durable beside an output that does not exist yet."""
    rows: set[int] = set()
    for file in staged_files(output):
        rows.update(pa.ipc.open_stream(file.read_bytes()[CHECKSUM.size :]).read_all().column("row").to_pylist())
    return rows


def visible_names(output: Path) -> list[str]:
    """What a reader of the output's folder sees."""
    return sorted(entry.name for entry in output.parent.iterdir()) if output.parent.exists() else []


@dataclass
class Work:
    """One output of the partition, from the first attempt to the last."""

    source: Path
    output: Path
    log: Path
    job_settings: dict[str, Any]
    null_rows: frozenset[int]
    reference: Path | None = None
    rows: int = ROWS
    chunk_rows: int = CHUNK_ROWS
    window: int = WINDOW

    @property
    def job(self) -> GenerateJob:
        return GenerateJob(**self.job_settings)

    def run(self, **arguments: Any) -> PartitionManifest:
        """An attempt in this process."""
        return run_partition(self.job, self.source, self.output, listeners=[], **arguments)

    def asked(self) -> Counter[int]:
        """How often the engine was asked for each row."""
        return Counter(map(int, self.log.read_text().split())) if self.log.exists() else Counter()

    def repeats(self) -> int:
        """Engine calls beyond one a row."""
        asked = self.asked()
        return asked.total() - len(asked)

    def staged_rows(self) -> set[int]:
        return staged_rows(self.output)

    @property
    def stage_folder(self) -> Path:
        return self.output.parent / STAGE_FOLDER

    def published(self) -> bool:
        """Whether the output is there; if it is, it must be whole and right."""
        if not self.output.exists():
            return False
        assert self.reference is not None
        assert pq.read_schema(self.output).remove_metadata() == pq.read_schema(self.reference).remove_metadata()
        assert pq.read_table(self.output).equals(pq.read_table(self.reference))
        assert data_pages(self.output) == data_pages(self.reference)
        return True

    def assert_finished(self) -> None:
        """The output is that of an undisturbed run, every row was asked for, and nothing else lies beside it."""
        assert self.published()
        assert set(self.asked()) == set(range(ROWS)) - self.null_rows
        assert visible_names(self.output) == [self.output.name]


def living_processes(session: int) -> list[psutil.Process]:
    """Processes of a session that still run; a zombie is dead."""
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == session and (process := psutil.Process(pid)).status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


class Session:
    """A process that leads a session of its own, for itself and its worker."""

    def __init__(self, process: ForkedProcess) -> None:
        self._process = process
        self.pid = process.pid

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """The exit status, or the negative number of the signal that ended it."""
        return self._process.wait(seconds)

    def living_processes(self) -> list[psutil.Process]:
        """Processes of the session that still run."""
        return living_processes(self.pid)

    def close(self) -> None:
        """End what is left of the session."""
        for left in self.living_processes():
            left.kill()
        self.wait()


class Sessions:
    """Starts sessions."""

    def __init__(self, server: ForkServer) -> None:
        self._server = server

    def start(self, module: str, *arguments: str, stderr: Path, **environment: str) -> Session:
        """Run a module's ``main`` in a session of its own; what it prints goes to the file ``stderr``."""
        with open(os.devnull) as nothing, stderr.open("wb") as printed:
            process = self._server.start(
                module,
                *arguments,
                environment={**ENVIRONMENT, **environment},
                streams=(nothing, printed, printed),
                session=True,
            )
        return Session(process)


@pytest.fixture(scope="session")
def sessions() -> Iterator[Sessions]:
    server = ForkServer(*MODULES, *IMPORTED)
    yield Sessions(server)
    server.close()


@dataclass(frozen=True)
class Broken:
    """How an attempt in another process ended.

    Args:
        status: the process's exit status.
        faults: what was done to it; one entry for each time.
        outcome: ``ok``, the name of the error it ended with, or ``None`` if it had no time to say.
        message: of that error.
        process: which it was, with a session for itself and its worker.
        stderr: what it printed.
    """

    status: int
    faults: list[dict[str, Any]]
    outcome: str | None
    message: str
    process: Session
    stderr: str


@dataclass
class Breaker:
    """Runs attempts in processes of their own, with a fault at the k-th arrival at a step."""

    folder: Path
    sessions: Sessions
    _started: list[Session] = field(default_factory=list)

    def run(self, work: Work, step: str, arrival: int, fault: str) -> Broken:
        report, marks, stderr = (self.folder / name for name in ("report.json", "faults.jsonl", "stderr"))
        for path in (report, marks):
            path.unlink(missing_ok=True)
        order = {
            "job": work.job_settings,
            "input": str(work.source),
            "output": str(work.output),
            "step": step,
            "arrival": arrival,
            "fault": fault,
            "report": str(report),
            "marks": str(marks),
        }
        process = self.sessions.start("tests.faults.broken_attempt", json.dumps(order), stderr=stderr)
        self._started.append(process)
        status = process.wait()
        result = json.loads(report.read_text()) if report.exists() else {}
        return Broken(
            status,
            [json.loads(line) for line in marks.read_text().splitlines()] if marks.exists() else [],
            result.get("outcome"),
            result.get("message", ""),
            process,
            stderr.read_text(),
        )

    def close(self) -> None:
        for process in self._started:
            process.close()


@pytest.fixture
def breaker(tmp_path: Path, sessions: Sessions) -> Iterator[Breaker]:
    breaker = Breaker(tmp_path, sessions)
    yield breaker
    breaker.close()


@pytest.fixture(scope="session")
def fault_input(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A partition of several files, with a null here and there."""
    folder = tmp_path_factory.mktemp("partition")
    for start in range(0, ROWS, ROWS_PER_FILE):
        rows = range(start, start + ROWS_PER_FILE)
        texts = [None if row % NULL_EVERY == 0 else f"ticket number {row}" for row in rows]
        table = pa.table({"id": pa.array(rows, pa.int64()), "text": pa.array(texts, pa.string())})
        pq.write_table(table, folder / f"part-{start:05d}.parquet")
    return folder


def _work(source: Path, folder: Path, *, faults: dict[str, list[int]] | None = None, **settings: Any) -> Work:
    log = folder / "requests.log"
    options = {"n_parallel": N_PARALLEL, "delay_s": 0.001, "request_log": str(log), "faults": faults or {}}
    return Work(
        source,
        folder / "out" / "answers.parquet",
        log,
        {
            "model": "echo",
            "prompt_template": "{text}",
            "chunk_rows": CHUNK_ROWS,
            "engine_options": options,
            **settings,
        },
        frozenset(range(0, ROWS, NULL_EVERY)),
    )


@pytest.fixture(scope="session")
def undisturbed_output(fault_input: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nothing happened to."""
    work = _work(fault_input, tmp_path_factory.mktemp("undisturbed"))
    manifest = work.run()
    nulls = len(work.null_rows)
    assert manifest.status_counts == {"success": ROWS - nulls, "skipped": nulls}
    assert set(work.asked()) == set(range(ROWS)) - work.null_rows
    assert work.repeats() == 0
    return work.output


@pytest.fixture
def work(fault_input: Path, undisturbed_output: Path, tmp_path: Path) -> Work:
    """An output to be made of the partition; its reference is the undisturbed one."""
    made = _work(fault_input, tmp_path)
    made.reference = undisturbed_output
    return made


@pytest.fixture
def make_work() -> Callable[..., Work]:
    """Other work: ``make_work(source, folder, faults=..., **settings of the job)``."""
    return _work


@pytest.fixture
def disk_full() -> Callable[[pytest.MonkeyPatch], None]:
    """From the call on nothing can be made durable."""

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda monkeypatch: monkeypatch.setattr(os, "fsync", refuse)


@pytest.fixture
def observe() -> Iterator[Callable[[Callable[[str], None]], None]]:
    """Install an observer of the steps for this test."""

    def install(observer: Callable[[str], None]) -> None:
        steps.observer = observer

    yield install
    steps.observer = None
