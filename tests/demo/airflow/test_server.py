from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from airflow_mullama.demo.airflow.client import TaskInstance
from airflow_mullama.demo.airflow.environment import airflow_environment
from airflow_mullama.demo.airflow.server import (
    AirflowServer,
    AirflowServerError,
    free_port,
    has_unfinished_runs,
    is_free,
)
from airflow_mullama.demo.airflow.task_logs import RunLogs
from airflow_mullama.demo.run import run_demo

DAG_FILE = """
from airflow.sdk import dag
from airflow_mullama.operators import MullamaGenerateOperator


@dag(schedule=None)
def {dag_id}():
    MullamaGenerateOperator(
        task_id="answer", input_path={source!r}, output_path={target!r}, prompt_template="{{text}}", model="echo",
        engine_options={{"delay_s": {delay}, "n_parallel": 1}},
    )


{dag_id}()
"""

# What a terminal runs: it says when the slow task is under way, and then waits to be stopped.
LAUNCHER = """
import sys, time
from pathlib import Path
from airflow_mullama.demo.airflow.server import AirflowServer
from airflow_mullama.demo.airflow.stopping import Stopped, signals_stop

try:
    with signals_stop(), AirflowServer(Path(sys.argv[1]), dags=Path(sys.argv[2])) as server:
        server.wait_for_dags(["slow"])
        server.client.trigger("slow", sys.argv[3])
        while not any(one.state == "running" for one in server.client.task_instances("slow", sys.argv[3])):
            time.sleep(0.1)
        print("running", flush=True)
        time.sleep(600)
except Stopped as stopped:
    sys.exit(128 + stopped.number)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return airflow_environment(tmp_path, dags=tmp_path, url="http://127.0.0.1:1", parallelism=2, further={"X": "y"})


def test_an_airflow_of_the_users_own_is_not_touched(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://production/airflow")
    monkeypatch.setenv("AIRFLOW_CONN_MULLAMA_DEFAULT", "{}")
    monkeypatch.setenv("AIRFLOW_HOME", "/opt/airflow")
    monkeypatch.setenv("AIRFLOW_MULLAMA_CACHE", "/cache")
    made = airflow_environment(tmp_path, dags=tmp_path, url="http://127.0.0.1:1", parallelism=2, further={"X": "y"})
    ours = {name: value for name, value in made.items() if name.startswith("AIRFLOW")}
    without = {name: value for name, value in environment.items() if name.startswith("AIRFLOW")}
    assert ours == {**without, "AIRFLOW_MULLAMA_CACHE": "/cache"}
    assert (made["AIRFLOW_HOME"], made["X"]) == (str(tmp_path), "y")


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "example.com")
    made = airflow_environment(tmp_path, dags=tmp_path, url="http://127.0.0.1:1", parallelism=2, further={})
    assert made["NO_PROXY"] == made["no_proxy"] == "example.com,127.0.0.1,localhost"


def test_secrets_are_private_and_stay(environment: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secrets = json.loads(path.read_text())
    assert len(set(secrets.values())) == 3
    assert environment["AIRFLOW__API_AUTH__JWT_SECRET"] == secrets["jwt"]
    again = airflow_environment(tmp_path, dags=tmp_path, url="http://127.0.0.1:1", parallelism=2, further={})
    assert again["AIRFLOW__API_AUTH__JWT_SECRET"] == secrets["jwt"]


def test_a_free_port_is_free() -> None:
    port = free_port()
    assert is_free(port)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        assert not is_free(port)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all, since making its database takes seconds."""
    return tmp_path_factory.mktemp("server") / "airflow"


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory, write_parquet: Callable[..., Path]) -> Path:
    # Rows that differ: the slow task must not be done by answering one of them.
    texts = [None if row % 3 == 2 else f"text {row}" for row in range(600)]
    folder = tmp_path_factory.mktemp("dags")
    source = write_parquet(folder / "lake" / "part.parquet", texts)
    directory = folder / "dags"
    directory.mkdir()
    for dag_id, delay in (("quick", 0.0), ("slow", 0.5)):
        target = str(folder / dag_id / "part.parquet")
        text = DAG_FILE.format(dag_id=dag_id, source=str(source), target=target, delay=delay)
        (directory / f"{dag_id}.py").write_text(text)
    (directory / "broken.py").write_text("import no_such_module  # in an airflow dag\n")
    return directory


@pytest.fixture(scope="module")
def processes() -> Iterator[Callable[[int], list[psutil.Process]]]:
    """All processes below one that began during these tests; whatever is left of them is killed."""
    before = set(psutil.Process().children(recursive=True))
    seen: set[psutil.Process] = set()

    def below(pid: int) -> list[psutil.Process]:
        found = set(psutil.Process(pid).children(recursive=True)) - before
        seen.update(found)
        return list(found)

    yield below
    for process in alive(list(seen)):
        process.kill()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    def runs(process: psutil.Process) -> bool:
        try:
            return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    return [process for process in processes if runs(process)]


def listening_addresses(processes: list[psutil.Process]) -> set[str]:
    return {
        connection.laddr.ip
        for process in alive(processes)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


@pytest.fixture(scope="module")
def interrupt(
    home: Path,
    dags: Path,
    processes: Callable[[int], list[psutil.Process]],
    eventually: Callable[..., object],
) -> Callable[[signal.Signals], None]:
    """Send a signal to a demo in the middle of its slow task, and see that nothing of it is left."""

    def send(number: signal.Signals) -> None:
        launcher = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(home), str(dags), f"until-{number.name}"],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert launcher.stdout is not None
            assert launcher.stdout.readline() == "running\n"
            eventually(lambda: any("airflow_mullama.worker" in _command(one) for one in processes(launcher.pid)))
            started = processes(launcher.pid)
            launcher.send_signal(number)
            status = launcher.wait(30)
        finally:
            launcher.kill()
            launcher.communicate()
        assert status == (-number if number is signal.SIGKILL else 128 + number)
        # What is told to end has ended everything before itself; what is killed cannot.
        eventually(lambda: not alive(started), 20 if number is signal.SIGKILL else 0)
        assert has_unfinished_runs(home)

    return send


def last_error(home: Path, run_id: str) -> str:
    """The task was told to stop while it could still say so, and made durable what it had."""
    return str(RunLogs(home, "slow", run_id).last_error(TaskInstance("answer", -1, "answer", None, 1, "")))


@pytest.fixture(scope="module")
def killed_home(home: Path, interrupt: Callable[[signal.Signals], None]) -> Path:
    """The home of a demo that was killed, all of whose processes are gone."""
    interrupt(signal.SIGKILL)
    return home


@pytest.fixture(scope="module")
def server(killed_home: Path, dags: Path) -> Iterator[AirflowServer]:
    with AirflowServer(killed_home, dags=dags) as server:
        yield server


@pytest.mark.integration
def test_nothing_is_left_after_it_was_told_to_end(home: Path, interrupt: Callable[[signal.Signals], None]) -> None:
    interrupt(signal.SIGTERM)
    assert last_error(home, "until-SIGTERM").startswith("JobStoppedError: Stopped at ")


@pytest.mark.integration
def test_nothing_is_left_after_it_was_killed(killed_home: Path) -> None:
    """That nothing is left is what the fixture makes sure of: the tests below go on from there."""
    assert last_error(killed_home, "until-SIGKILL").startswith("JobStoppedError: Stopped at ")


@pytest.mark.integration
def test_what_was_interrupted_is_over_before_a_scheduler_could_go_on_with_it(server: AirflowServer) -> None:
    assert not has_unfinished_runs(server.home)
    assert server.client.run_state("slow", "until-SIGKILL") == "failed"


@pytest.mark.integration
def test_a_run_from_trigger_to_result(
    server: AirflowServer,
    dags: Path,
    processes: Callable[[int], list[psutil.Process]],
    eventually: Callable[..., object],
) -> None:
    server.wait_for_dags(["quick"])
    assert stat.S_IMODE(server.home.stat().st_mode) == 0o700
    with pytest.raises(AirflowServerError, match=f"Another demo .process {os.getpid()}. is using"):
        AirflowServer(server.home, dags=dags).start()
    assert server.client.dag("no_such_dag") is None
    assert server.client.latest_run("quick") is None
    server.client.trigger("quick", "first")

    def over() -> bool:
        server.check()
        return server.client.run_state("quick", "first") in ("success", "failed")

    eventually(over, 120)
    assert listening_addresses(processes(os.getpid())) == {"127.0.0.1"}
    assert server.client.run_state("quick", "first") == "success"
    assert server.client.latest_run("quick") == "first"
    (instance,) = server.client.task_instances("quick", "first")
    assert (instance.task_id, instance.map_index, instance.ended) == ("answer", -1, True)
    manifest = server.client.xcom("quick", "first", instance)
    assert manifest["status_counts"] == {"success": 400, "skipped": 200}
    assert server.client.xcom("quick", "first", instance, key="nothing") is None
    lines = [line.event for line in RunLogs(server.home, "quick", "first").new_lines()]
    assert any(line.startswith("[600/600] 100.0%") for line in lines)
    assert not is_free(server.port)


@pytest.mark.integration
def test_what_is_wrong_is_named(
    server: AirflowServer,
    processes: Callable[[int], list[psutil.Process]],
    eventually: Callable[..., object],
) -> None:
    """The last test of this server: its scheduler is killed."""
    with pytest.raises(AirflowServerError, match=r"broken\.py.*no_such_module"):
        server.wait_for_dags(["broken"])

    # What reads DAG files starts last: by now everything runs.
    started = processes(os.getpid())
    (scheduler,) = (one for one in alive(started) if "scheduler" in _command(one))
    scheduler.kill()
    assert "scheduler ended with status -9" in str(eventually(lambda: _complaint(server)))
    server.stop()
    assert alive(started) == []
    assert is_free(server.port)


def _complaint(server: AirflowServer) -> str | None:
    try:
        server.check()
    except AirflowServerError as error:
        return str(error)
    return None


def test_a_port_that_was_asked_for_and_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert run_demo(tmp_path / "demo", ui=True, port=port, rows=140) == 1
    assert f"Port {port} is taken; give another one with --port" in " ".join(capsys.readouterr().out.split())
