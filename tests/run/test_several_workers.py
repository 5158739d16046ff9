"""One window over several worker processes: what happens to one does not concern the others' rows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from airflow_mullama.engines.base import ROWS_PER_WORKER, EngineSettings
from airflow_mullama.errors import ConfigurationError, JobStoppedError, WorkerCrashError
from airflow_mullama.gpus import GpuLease, GpuRequest, lease_gpus
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.run.request_window import RequestWindow
from airflow_mullama.run.runner import run_partition
from airflow_mullama.worker.client import Exited, Started
from airflow_mullama.worker.session import EngineSession

pytestmark = pytest.mark.usefixtures("no_worker_left")


@pytest.fixture
def job(request_log: Any) -> Callable[..., GenerateJob]:
    def make(*, faults: dict[str, list[int]] | None = None, n_workers: int = 2, **settings: Any) -> GenerateJob:
        options = {"faults": faults or {}, "n_workers": n_workers, "n_parallel": 2, "delay_s": 0.001}
        options["request_log"] = str(request_log.path)
        return GenerateJob(model="echo", prompt_template="{text}", engine_options=options, **settings)

    return make


def statuses(output: Path) -> dict[int, str | None]:
    table = pq.read_table(output)
    return dict(zip(table.column("id").to_pylist(), table.column("error_type").to_pylist(), strict=True))


def test_all_of_them_get_rows_and_every_row_comes_back_once(
    job: Callable[..., GenerateJob],
    write_parquet: Callable[..., Path],
    texts: Callable[..., list[str]],
    tmp_path: Path,
    request_log: Any,
    started_workers: Any,
    recorder: Any,
):
    source = write_parquet(tmp_path / "in.parquet", texts(400))
    listener = recorder()

    manifest = run_partition(job(n_workers=3, chunk_rows=50), source, tmp_path / "out.parquet", listeners=[listener])

    assert len(started_workers) == 3
    assert sum("is ready" in line for line in listener.announcements) == 3
    assert sorted(request_log.rows()) == list(range(400))
    assert manifest.status_counts == {"success": 400}
    assert pq.read_table(tmp_path / "out.parquet").column("response").to_pylist() == texts(400)


def test_few_rows_are_no_reason_to_load_a_model_twice(
    job: Callable[..., GenerateJob],
    write_parquet: Callable[..., Path],
    texts: Callable[..., list[str]],
    tmp_path: Path,
    started_workers: Any,
):
    source = write_parquet(tmp_path / "in.parquet", texts(ROWS_PER_WORKER))

    run_partition(job(n_workers=4), source, tmp_path / "out.parquet")

    assert len(started_workers) == 1


def test_the_row_that_kills_its_worker_is_found_while_the_others_go_on(
    job: Callable[..., GenerateJob],
    write_parquet: Callable[..., Path],
    texts: Callable[..., list[str]],
    tmp_path: Path,
):
    source = write_parquet(tmp_path / "in.parquet", texts(300))

    run_partition(
        job(faults={"crash": [7, 150, 299], "fail_once": [20, 220]}, max_error_ratio=1.0),
        source,
        tmp_path / "out.parquet",
    )

    found = statuses(tmp_path / "out.parquet")
    assert {row for row, error in found.items() if error} == {7, 150, 299}
    assert {found[row] for row in (7, 150, 299)} == {"engine_crash"}


def test_a_row_that_hangs_costs_only_its_own_worker(
    job: Callable[..., GenerateJob],
    write_parquet: Callable[..., Path],
    texts: Callable[..., list[str]],
    tmp_path: Path,
):
    source = write_parquet(tmp_path / "in.parquet", texts(100))

    run_partition(
        job(faults={"hang": [5]}, row_timeout=0.5, max_retries=0, max_error_ratio=1.0), source, tmp_path / "out.parquet"
    )

    assert {row: error for row, error in statuses(tmp_path / "out.parquet").items() if error} == {5: "timeout"}


@pytest.fixture
def session() -> Any:
    settings = EngineSettings(
        task="generate",
        model="echo",
        options={"faults": {"hang": list(range(1000))}, "n_parallel": 2},
        settings={"max_tokens": 10, "sampling": {}},
    )
    lease = GpuLease()
    lease.environments = [{"SEAT": "first"}, {"SEAT": "second"}]
    session = EngineSession("echo", settings, lambda: lease)
    yield session
    session.close()


def both_loaded(session: EngineSession, rows: int) -> RequestWindow:
    window = RequestWindow(session, 0)
    window.offer(range(rows), ["text"] * rows)
    window.send()
    while len(session.ready_seats) < 2:
        event = session.events.get(timeout=60)
        assert isinstance(event, Started)
        window.handle(event)
    window.send()
    return window


@pytest.mark.usefixtures("workers_by_command")
def test_each_worker_has_the_environment_of_its_seat(session: EngineSession):
    both_loaded(session, 100)

    seats = [psutil.Process(seat.worker.pid).environ()["SEAT"] for seat in session.seats if seat.worker]

    assert seats == ["first", "second"]


def test_one_worker_that_never_comes_up_ends_the_task_though_others_work(session: EngineSession):
    window = both_loaded(session, 100)
    broken = session.seats[1]

    def dies() -> None:
        assert broken.worker is not None
        window.handle(Exited(broken.worker, "was killed by SIGKILL", ("out of memory",)))

    for _ in range(2):
        dies()
        window.send()
    with pytest.raises(WorkerCrashError, match="out of memory"):
        dies()


def test_suspects_are_tried_by_their_own_seat_even_when_few_rows_are_left(session: EngineSession):
    window = both_loaded(session, 24)
    seat = session.seats[1]
    had = [row for row in window.rows_in_flight if row in window._lanes[1].in_flight]
    assert had
    assert seat.worker is not None

    window.handle(Exited(seat.worker, "was killed by SIGKILL", ()))
    window.send()
    while seat not in session.ready_seats:
        window.handle(session.events.get(timeout=60))
    window.send()

    assert list(window._lanes[1].in_flight) == had[:1]


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_MULLAMA_GPUS", "0,1")
    monkeypatch.setenv("AIRFLOW_MULLAMA_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("two_gpus")
def test_a_job_on_two_gpus_has_a_worker_on_each(
    job: Callable[..., GenerateJob],
    write_parquet: Callable[..., Path],
    texts: Callable[..., list[str]],
    workers: Callable[[], list[psutil.Process]],
    recorder: Any,
    tmp_path: Path,
):
    source = write_parquet(tmp_path / "in.parquet", texts(300))
    seen: set[str] = set()
    listener = recorder(lambda snapshot: seen.update(one.environ()["CUDA_VISIBLE_DEVICES"] for one in workers()))

    manifest = run_partition(job(gpus=2), source, tmp_path / "out.parquet", listeners=[listener])

    assert manifest.status_counts == {"success": 300}
    assert seen == {"0", "1"}
    assert any("computing on" in line for line in listener.announcements)


@pytest.mark.usefixtures("two_gpus")
def test_a_job_waits_for_its_gpu_says_so_and_counts_the_time(
    job: Callable[..., GenerateJob],
    write_parquet: Callable[..., Path],
    texts: Callable[..., list[str]],
    recorder: Any,
    tmp_path: Path,
):
    source = write_parquet(tmp_path / "in.parquet", texts(20))
    taken = lease_gpus(GpuRequest("all"))

    class Listener(recorder):  # type: ignore[misc]
        def announce(self, message: str) -> None:
            super().announce(message)
            if message.startswith("waiting for a GPU"):
                taken.close()

    listener = Listener()
    manifest = run_partition(job(gpus="auto"), source, tmp_path / "out.parquet", listeners=[listener])

    assert manifest.status_counts == {"success": 20}
    assert manifest.seconds.waiting_for_gpu > 0
    assert manifest.seconds.waiting_for_gpu + manifest.seconds.waiting_for_input < manifest.seconds.total


@pytest.mark.usefixtures("two_gpus")
def test_an_unchanged_partition_needs_no_gpu_and_a_stop_ends_the_waiting(
    job: Callable[..., GenerateJob],
    write_parquet: Callable[..., Path],
    texts: Callable[..., list[str]],
    recorder: Any,
    tmp_path: Path,
):
    source = write_parquet(tmp_path / "in.parquet", texts(20))
    run_partition(job(), source, tmp_path / "out.parquet")
    with lease_gpus(GpuRequest("all")):
        assert run_partition(job(gpus=1), source, tmp_path / "out.parquet").skipped == "up_to_date"

        stop = threading.Event()

        class Listener(recorder):  # type: ignore[misc]
            def announce(self, message: str) -> None:
                if message.startswith("waiting for a GPU"):
                    stop.set()

        with pytest.raises(JobStoppedError, match="before the engine was started"):
            run_partition(job(gpus=1), source, tmp_path / "other.parquet", listeners=[Listener()], stop=stop)


def test_gpus_that_make_no_sense_are_refused(job: Callable[..., GenerateJob]):
    with pytest.raises(ConfigurationError, match="gpus is 0; it must be"):
        job(gpus=0)


def test_gpus_for_a_server_elsewhere_are_refused():
    options = {"endpoint": "http://127.0.0.1:1/v1"}
    with pytest.raises(ConfigurationError, match="nothing is computed on this machine"):
        GenerateJob(model="m", engine="openai", prompt_template="{text}", engine_options=options, gpus="auto")


@pytest.mark.usefixtures("two_gpus")
def test_what_another_attempt_did_while_a_gpu_was_waited_for_is_not_done_again(
    job: Callable[..., GenerateJob],
    write_parquet: Callable[..., Path],
    texts: Callable[..., list[str]],
    recorder: Any,
    request_log: Any,
    tmp_path: Path,
):
    source, output = write_parquet(tmp_path / "in.parquet", texts(40)), tmp_path / "out.parquet"
    taken = lease_gpus(GpuRequest("all"))

    class Listener(recorder):  # type: ignore[misc]
        def announce(self, message: str) -> None:
            super().announce(message)
            if message.startswith("waiting for a GPU"):
                run_partition(job(), source, output, listeners=[])
                taken.close()

    manifest = run_partition(job(gpus=1), source, output, listeners=[Listener()])

    assert manifest.skipped == "up_to_date"
    assert sorted(request_log.rows()) == list(range(40))
