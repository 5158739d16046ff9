"""Leases among real processes, with real locks; the GPUs are named by the environment."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.errors import ConfigurationError, JobStoppedError
from airflow_mullama.gpus import GpuRequest, lease_gpus
from airflow_mullama.gpus.lease import inherited_descriptors
from airflow_mullama.worker.client import Started, Worker

# Says each thing that happens in a line of JSON; gives the GPUs back when its standard input ends.
HOLDER = """
import json, subprocess, sys
from airflow_mullama.gpus import GpuRequest, lease_gpus
from airflow_mullama.gpus.lease import inherited_descriptors

def say(*words):
    print(json.dumps(words), flush=True)

with_child = sys.argv[2:] == ["child"]
with lease_gpus(GpuRequest(json.loads(sys.argv[1])), announce=lambda line: say("announced", line)) as lease:
    if with_child:
        (environment,) = lease.environments
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=inherited_descriptors(environment)
        )
        say("child", child.pid)
    say("leased", [environment["CUDA_VISIBLE_DEVICES"] for environment in lease.environments])
    sys.stdin.read()
say("released")
"""


class Holder:
    """Another task of this machine."""

    def __init__(self, gpus: Any, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, json.dumps(gpus), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, kind: str) -> Any:
        """What follows the next line of a kind."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found, *rest = json.loads(line)
            if found == kind:
                return rest[0] if rest else None
        raise AssertionError(f"it ended with {self.process.wait()} and never said {kind!r}")

    def release(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "locks"
    monkeypatch.setenv("AIRFLOW_MULLAMA_GPU_LOCKS", str(directory))
    monkeypatch.setenv("AIRFLOW_MULLAMA_GPUS", "0,1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    return directory


@pytest.fixture
def holder(locks: Path) -> Iterator[Callable[..., Holder]]:
    started: list[Holder] = []

    def start(gpus: Any, *arguments: str) -> Holder:
        started.append(Holder(gpus, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


class Stop:
    """Ends a waiting once it was announced."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def announce(self, line: str) -> None:
        self.lines.append(line)

    def raise_if_stopped(self) -> None:
        if self.lines:
            raise JobStoppedError("Stopped.")


def cannot_have(gpus: Any) -> str:
    """The line of a waiting that is given up at once."""
    stop = Stop()
    with pytest.raises(JobStoppedError):
        lease_gpus(GpuRequest(gpus), stop.raise_if_stopped, stop.announce)
    (line,) = stop.lines
    return line


def can_have(gpus: Any) -> list[str]:
    lines: list[str] = []
    with lease_gpus(GpuRequest(gpus), announce=lines.append) as lease:
        assert lines == [f"computing on {', '.join(lease.names)}"]
        assert lease.waited_seconds == 0.0
        return [environment["CUDA_VISIBLE_DEVICES"] for environment in lease.environments]


def test_no_request_changes_nothing(locks: Path) -> None:
    with lease_gpus(GpuRequest(None)) as lease:
        assert (lease.environments, lease.names, lease.waited_seconds) == ([{}], (), 0.0)
    assert not locks.exists()


def test_a_machine_without_gpus_computes_without_a_lease(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_MULLAMA_GPUS", "")
    lines: list[str] = []
    with lease_gpus(GpuRequest("auto"), announce=lines.append) as lease:
        assert lease.environments == [{}]
    assert lines == ["gpus='auto' leases nothing: this task may use no GPU (AIRFLOW_MULLAMA_GPUS is '')"]


def test_each_task_gets_a_gpu_of_its_own_and_the_third_waits(holder: Callable[..., Holder]) -> None:
    first, second = holder("auto"), holder("auto")
    assert sorted(first.wait_for("leased") + second.wait_for("leased")) == ["0", "1"]
    line = cannot_have("auto")
    assert line.startswith("waiting for a GPU: 2 of 2 are taken by pid ")
    assert {int(pid) for pid in line.split(" by ")[1].replace("pid ", "").split(", ")} == {first.pid, second.pid}
    second.release()
    second.wait_for("released")
    assert len(can_have("auto")) == 1


def test_waiting_is_said_once_and_counted(holder: Callable[..., Holder]) -> None:
    first, waiting = holder("all"), None
    first.wait_for("leased")
    waiting = holder([1])
    assert waiting.wait_for("announced") == f"waiting for a GPU: 1 of 1 are taken by pid {first.pid}"
    first.release()
    assert waiting.wait_for("announced").startswith("computing on GPU 1 after waiting for ")
    assert waiting.wait_for("leased") == ["1"]


def test_two_leases_of_one_process_exclude_each_other(locks: Path) -> None:
    with lease_gpus(GpuRequest("all")) as lease:
        assert [environment["CUDA_VISIBLE_DEVICES"] for environment in lease.environments] == ["0", "1"]
        assert cannot_have("auto") == f"waiting for a GPU: 2 of 2 are taken by pid {os.getpid()}"
    assert can_have("all") == ["0", "1"]


def test_a_killed_task_leaves_its_gpus_free(holder: Callable[..., Holder]) -> None:
    killed = holder("all")
    killed.wait_for("leased")
    killed.kill()
    assert can_have("all") == ["0", "1"]


def test_a_gpu_is_free_when_the_worker_of_a_killed_task_is_gone_too(
    holder: Callable[..., Holder], eventually: Callable[..., Any]
) -> None:
    killed = holder("auto", "child")
    child = psutil.Process(killed.wait_for("child"))
    killed.wait_for("leased")
    killed.kill()
    assert cannot_have([0]) == f"waiting for a GPU: 1 of 1 are taken by pid {killed.pid}"
    assert can_have([1]) == ["1"]
    child.send_signal(signal.SIGKILL)
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert can_have([0]) == ["0"]


def test_giving_back_leaves_a_running_worker_its_gpu(holder: Callable[..., Holder]) -> None:
    returned = holder("auto", "child")
    child = psutil.Process(returned.wait_for("child"))
    returned.wait_for("leased")
    returned.release()
    returned.wait_for("released")
    cannot_have([0])
    child.kill()


@pytest.mark.integration
def test_the_engines_worker_holds_its_gpus_lock(locks: Path, no_worker_left: None) -> None:
    started = threading.Event()
    lease = lease_gpus(GpuRequest([0]))
    settings = EngineSettings(task="generate", model="echo", options={}, settings={})
    worker = Worker(
        "echo",
        settings,
        lambda event: started.set() if isinstance(event, Started) else None,
        lease.environments[0],
    )
    try:
        assert started.wait(60)
        assert psutil.Process(worker.pid).environ()["CUDA_VISIBLE_DEVICES"] == "0"
        lease.close()
        cannot_have([0])
    finally:
        worker.stop()
    assert can_have([0]) == ["0"]


def test_other_child_processes_do_not_hold_the_lock(locks: Path) -> None:
    lease = lease_gpus(GpuRequest([0]))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lease.close()
    assert can_have([0]) == ["0"]
    child.communicate()


def test_who_wants_all_is_not_overtaken_by_who_wants_one(holder: Callable[..., Holder]) -> None:
    first, second = holder([0]), holder([1])
    first.wait_for("leased")
    second.wait_for("leased")
    both = holder(2)
    both.wait_for("announced")
    late = holder("auto")
    assert late.wait_for("announced").endswith("; 1 task waits longer")
    first.release()
    first.wait_for("released")
    # GPU 0 is free, and stays so for the one that waits for two.
    assert cannot_have("auto").startswith("waiting for a GPU: 1 of 2 are taken by pid ")
    assert late.process.poll() is None
    second.release()
    assert both.wait_for("leased") == ["0", "1"]
    both.release()
    assert len(late.wait_for("leased")) == 1


def test_who_wants_another_gpu_does_not_wait_in_the_same_queue(holder: Callable[..., Holder]) -> None:
    first = holder([0])
    first.wait_for("leased")
    holder([0]).wait_for("announced")
    assert can_have([1]) == ["1"]


def test_a_waiting_task_that_dies_is_not_waited_for(holder: Callable[..., Holder]) -> None:
    first = holder([0])
    first.wait_for("leased")
    both = holder("all")
    both.wait_for("announced")
    assert "; 1 task waits longer" in cannot_have("auto")
    both.kill()
    assert can_have("auto") == ["1"]


def test_contenders_for_two_of_two_all_have_their_turn_alone(holder: Callable[..., Holder], locks: Path) -> None:
    contenders = [holder(gpus) for gpus in (2, "auto", "all", [1, 0], 1, 2)]
    held: set[str] = set()
    for one in contenders:
        one.release()  # each gives back at once what it gets
    for one in contenders:
        held |= set(one.wait_for("leased"))
        one.wait_for("released")
        assert one.process.wait() == 0
    assert held == {"0", "1"}
    assert list(locks.glob("ticket-*")) == []


def test_no_two_tasks_ever_have_one_gpu(locks: Path, tmp_path: Path) -> None:
    program = """
import json, os, sys
from airflow_mullama.gpus import GpuRequest, lease_gpus
for turn in range(5):
    with lease_gpus(GpuRequest(json.loads(sys.argv[1])), announce=lambda line: None) as lease:
        for environment in lease.environments:
            mark = os.path.join(sys.argv[2], environment["CUDA_VISIBLE_DEVICES"])
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))  # fails if another one is there
        for environment in lease.environments:
            os.unlink(os.path.join(sys.argv[2], environment["CUDA_VISIBLE_DEVICES"]))
"""
    tasks = [
        subprocess.Popen([sys.executable, "-c", program, gpus, str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for gpus in ('"auto"', "2", '"auto"', "[1]")
    ]
    for task in tasks:
        _, problem = task.communicate()
        assert task.returncode == 0, problem


def test_the_directory_is_for_everybody_and_safe_from_them(locks: Path) -> None:
    umask = os.umask(0o077)
    try:
        can_have("all")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(locks.stat().st_mode) == 0o1777
    assert {stat.S_IMODE(file.stat().st_mode) for file in locks.glob("*.lock")} == {0o666}


@pytest.mark.parametrize("trick", ["symlink", "hard link", "directory", "pipe"])
def test_a_lock_file_that_is_something_else_is_refused_and_left_alone(locks: Path, tmp_path: Path, trick: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    can_have("all")
    place = locks / "0.lock"
    place.unlink()
    if trick == "symlink":
        place.symlink_to(precious)
    elif trick == "hard link":
        place.hardlink_to(precious)
    elif trick == "directory":
        place.mkdir()
    else:
        os.mkfifo(place)
    with pytest.raises(ConfigurationError, match=r"0\.lock' is no lock file of this package; remove it"):
        lease_gpus(GpuRequest([0]))
    assert precious.read_text() == "precious"


def test_a_directory_where_everybody_may_remove_locks_is_refused(locks: Path) -> None:
    locks.mkdir()
    locks.chmod(0o777)
    with pytest.raises(ConfigurationError, match=r"chmod \+t is missing"):
        lease_gpus(GpuRequest("auto"))


def test_a_file_in_the_directorys_place_is_said(locks: Path) -> None:
    locks.write_text("")
    with pytest.raises(ConfigurationError, match=r"is no directory.*set AIRFLOW_MULLAMA_GPU_LOCKS"):
        lease_gpus(GpuRequest("auto"))


def test_what_a_lock_file_says_of_its_holder_is_not_trusted(locks: Path) -> None:
    with lease_gpus(GpuRequest([0])):
        (locks / "0.lock").write_text("1 host\x1b[2J and more")
        assert cannot_have([0]) == "waiting for a GPU: 1 of 1 are taken"
        (locks / "0.lock").write_text("71 another-host\n")
        assert cannot_have([0]) == "waiting for a GPU: 1 of 1 are taken by pid 71 on another-host"


def test_an_environment_without_a_lease_has_nothing_to_inherit() -> None:
    assert inherited_descriptors({}) == ()
