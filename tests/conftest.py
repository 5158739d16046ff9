from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from airflow_mullama.demo.airflow.environment import airflow_environment
from airflow_mullama.demo.airflow.server import DATABASE_NAME, MIGRATED_NAME, migrate_database
from airflow_mullama.jobs.embed import EmbedJob
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.progress import Snapshot
from airflow_mullama.redaction import credentials
from airflow_mullama.storage.filesystems import Location, resolve_location
from airflow_mullama.worker import client
from tests.forked_workers import WORKER_MODULE, ForkedWorkers

# A shared machine says nothing of how long an example takes, and a failure must be the same for everybody.
hypothesis.settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("default")

# The idle threads of NumPy's OpenBLAS spin for a tenth of a second in each process that imports it, and tests start
# thousands; a worker of this package sets it itself.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

# Airflow and thousands of tests are so many objects that looking among them for garbage takes long.
gc.set_threshold(50_000)

# A background job of a shell ignores Ctrl-C, and so would the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Give this process an Airflow of its own: that reads the environment when it is imported, and only then."""
    for name in [name for name in os.environ if name.startswith(("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_"))]:
        del os.environ[name]  # whatever belongs to another Airflow of this machine
    home = tempfile.mkdtemp(prefix="airflow-home-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    # Every `dag.test()` reads and stores the whole folder again: it is empty, and tests load and store what they run.
    dags = Path(home) / "dags"
    dags.mkdir()
    os.environ.update(
        AIRFLOW_HOME=home,
        AIRFLOW__CORE__DAGS_FOLDER=str(dags),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
    )


@pytest.fixture(autouse=True)
def no_key_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process blots out every key that it has read: one test's is an ordinary word of the next."""
    monkeypatch.setattr(credentials, "_keys", {})
    monkeypatch.setattr(credentials, "_patterns", ())


_forked = ForkedWorkers()
_by_command = 0


def _count_command(event: str, arguments: tuple[Any, ...]) -> None:
    global _by_command
    if event == "subprocess.Popen" and WORKER_MODULE in map(str, arguments[1]):
        _by_command += 1


# Hooks stay for the life of the process, so there is one, and tests look at what it saw since they began.
sys.addaudithook(_count_command)


@pytest.fixture(scope="session", autouse=True)
def _forked_workers() -> Iterator[None]:
    client.start_process = _forked.start
    yield
    client.start_process = _forked.by_command
    _forked.close()


@pytest.fixture
def workers_by_command(monkeypatch: pytest.MonkeyPatch, _forked_workers: None) -> None:
    """Workers are started by their command, as they are for users."""
    monkeypatch.setattr(client, "start_process", _forked.by_command)


class StartedWorkers:
    """The worker processes that this process started since the test began, whether or not they still run."""

    def __init__(self) -> None:
        self._before = self._all()

    def __len__(self) -> int:
        return self._all() - self._before

    @staticmethod
    def _all() -> int:
        return _forked.count + _by_command


@pytest.fixture
def started_workers() -> StartedWorkers:
    return StartedWorkers()


def worker_children(pid: int | None = None) -> list[psutil.Process]:
    """Worker processes below a process (this one by default), zombies too."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if (
                child.status() == psutil.STATUS_ZOMBIE  # asked first: a zombie has no command line
                or child.ppid() == _forked.parent
                or WORKER_MODULE in child.cmdline()
            ):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture
def workers() -> Callable[..., list[psutil.Process]]:
    return worker_children


@pytest.fixture
def no_worker_left() -> Iterator[None]:
    """Fails a test that leaves a worker, or a zombie of one, behind."""
    before = {child.pid for child in worker_children()}
    yield
    left = [child for child in worker_children() if child.pid not in before]
    assert left == []


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """Wait until a condition holds; its value. Fails when it does not within ``seconds``."""

    def wait(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
        start = time.monotonic()
        while not (value := condition()):
            waited = time.monotonic() - start
            if waited > seconds:
                pytest.fail(f"it did not come about within {seconds:g} s")
            # The longer it takes, the less often: looking is work too, and what is waited for needs the cores.
            time.sleep(min(max(0.02, waited / 20), 0.5))
        return value

    return wait


def _write_parquet(path: str | Path, content: pa.Table | Sequence[str | None], **options: Any) -> Path:
    """Write a table, or texts as the column ``text`` beside their row's number as ``id``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, pa.Table):
        ids = pa.array(range(len(content)), pa.int64())
        content = pa.table({"id": ids, "text": pa.array(list(content), pa.string())})
    pq.write_table(content, path, **options)
    return path


@pytest.fixture(scope="session")
def write_parquet() -> Callable[..., Path]:
    return _write_parquet


def _texts(count: int, start: int = 0) -> list[str]:
    return [f"ticket number {row}" for row in range(start, start + count)]


@pytest.fixture
def texts() -> Callable[..., list[str]]:
    return _texts


class RequestLog:
    """What the echo engine was asked, by row, across workers; without what an engine is tried with before the first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[int]:
        numbers = map(int, self.path.read_text().split()) if self.path.exists() else ()
        return [number for number in numbers if number >= 0]

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)


@pytest.fixture
def request_log(tmp_path: Path) -> RequestLog:
    return RequestLog(tmp_path / "requests.log")


@pytest.fixture
def echo_job(request_log: RequestLog) -> Callable[..., GenerateJob]:
    """A generation with the echo engine: ``faults``, ``delay_s`` and ``n_parallel`` are its options."""

    def make(
        *, faults: dict[str, list[int]] | None = None, delay_s: float = 0.0, n_parallel: int = 4, **settings: Any
    ) -> GenerateJob:
        if "prompt_column" not in settings:
            settings.setdefault("prompt_template", "{text}")
        options = {"faults": faults or {}, "delay_s": delay_s, "n_parallel": n_parallel}
        return GenerateJob(model="echo", engine_options={**options, "request_log": str(request_log.path)}, **settings)

    return make


@pytest.fixture
def echo_embed_job(request_log: RequestLog) -> Callable[..., EmbedJob]:
    """An embedding with the echo engine; ``options`` are the engine's."""

    def make(*, options: dict[str, Any] | None = None, **settings: Any) -> EmbedJob:
        if "text_template" not in settings:
            settings.setdefault("text_column", "text")
        engine_options = {"request_log": str(request_log.path), **(options or {})}
        return EmbedJob(model="echo", engine_options=engine_options, **settings)

    return make


class Recorder:
    """A listener that keeps everything; ``on_advance`` is called with each change."""

    def __init__(self, on_advance: Callable[[Snapshot], None] = lambda snapshot: None) -> None:
        self.announcements: list[str] = []
        self.snapshots: list[Snapshot] = []
        self.advances: list[Snapshot] = []
        self._on_advance = on_advance

    def announce(self, message: str) -> None:
        self.announcements.append(message)

    def progress(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def advance(self, snapshot: Snapshot) -> None:
        self.advances.append(snapshot)
        self._on_advance(snapshot)


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


@dataclass(frozen=True)
class ObjectStore:
    """A real S3 API on loopback."""

    endpoint: str
    filesystem: pafs.S3FileSystem
    bucket: str

    def url(self, *segments: str) -> str:
        return "/".join((f"s3://{self.bucket}", *segments))

    def resolve(self, url: str | os.PathLike[str]) -> Location:
        text = os.fspath(url)
        if not text.startswith("s3://"):
            return resolve_location(text)
        return Location(self.filesystem, text.removeprefix("s3://").rstrip("/"), text.rstrip("/"))

    def write(self, url: str, table: pa.Table) -> None:
        pq.write_table(table, url.removeprefix("s3://"), filesystem=self.filesystem)

    def read(self, url: str) -> pa.Table:
        with pq.ParquetFile(url.removeprefix("s3://"), filesystem=self.filesystem) as file:
            return file.read()

    def objects(self, url: str) -> list[str]:
        selector = pafs.FileSelector(url.removeprefix("s3://"), recursive=True, allow_not_found=True)
        return sorted(info.path for info in self.filesystem.get_file_info(selector) if info.is_file)


@pytest.fixture(scope="session")
def _object_store_server() -> Iterator[str]:
    moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def object_store(_object_store_server: str, request: pytest.FixtureRequest) -> ObjectStore:
    """A bucket of the test's own."""
    filesystem = pafs.S3FileSystem(
        access_key="test",
        secret_key="test",
        endpoint_override=_object_store_server,
        region="us-east-1",
        allow_bucket_creation=True,
        allow_delayed_open=True,
    )
    bucket = "lake-" + os.urandom(6).hex()
    filesystem.create_dir(bucket)
    return ObjectStore(_object_store_server, filesystem, bucket)


@pytest.fixture(scope="session")
def airflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of Airflow with nothing but its metadata database, made once a session: it takes Airflow seconds."""
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent  # that of all of this session's processes
    home = session / "airflow-database"
    with (session / "airflow-database.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        home.mkdir(exist_ok=True)
        environment = airflow_environment(home, dags=home, url="http://127.0.0.1:1", parallelism=1, further={})
        migrate_database(home, environment)
    return home


@pytest.fixture(scope="session")
def migrated_home(airflow_database: Path) -> Callable[[Path], Path]:
    """Make an ``AIRFLOW_HOME`` whose database is there already: a copy."""

    def make(home: Path) -> Path:
        home.mkdir(mode=0o700)
        for name in (DATABASE_NAME, MIGRATED_NAME):
            shutil.copy(airflow_database / name, home)
        return home

    return make
