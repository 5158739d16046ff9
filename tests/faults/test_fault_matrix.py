"""Whatever happens at whatever step: nothing is lost, nothing durable is done twice, no half output is seen."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from airflow_mullama.fail_points import STEPS
from airflow_mullama.worker import client

# When it happens: in the middle of what there is of each step.
ARRIVALS = {
    "read": 9,  # of 12; by then the worker has rows
    "render": 18,  # of 24
    "send": 50,
    "wait": 50,
    "result": 50,  # of at least 56: never more than a window's rows come back at once
    "stage": 12,  # of 24
    "staged": 12,
    "commit": 1,
    "write": 1,
    "publish": 1,
    "published": 1,
}
WRITING_STEPS = ("stage", "staged")  # on the thread that makes chunks durable
PUBLISHING_STEPS = ("commit", "write", "publish")

OUTCOMES = {
    "exception": {"InjectedError"},
    "disk_full": {"OSError", "OutputNotWritableError"},
    "worker_killed": {"ok"},
    "group_killed": {None},
    "stop_signal": {"JobStoppedError"},
}


def expected_outcomes(step: str, fault: str) -> set[str | None]:
    # A stop that comes when the output is there has nothing left to stop.
    return {"ok"} if (step, fault) == ("published", "stop_signal") else OUTCOMES[fault]


def not_yet_durable(work: Any) -> int:
    """How many rows may be asked and not durable, however slow the disk is: those in flight, and three chunks, of which
    one is written, one waits for that, and one is filled meanwhile."""
    bound: int = work.window + 3 * work.chunk_rows
    return bound


def may_repeat(step: str, fault: str, work: Any) -> int:
    """How many rows may be asked twice, at most."""
    if step in PUBLISHING_STEPS or step == "published":
        return 0
    if fault == "group_killed" or (step in WRITING_STEPS and fault in ("exception", "disk_full")):
        return not_yet_durable(work)
    return work.window


def test_the_matrix_covers_every_step():
    assert tuple(ARRIVALS) == STEPS


@pytest.mark.parametrize("fault", OUTCOMES)
@pytest.mark.parametrize("step", STEPS)
def test_a_broken_attempt_loses_nothing_and_repeats_only_what_was_open(
    step: str, fault: str, work: Any, breaker: Any, eventually: Callable[..., Any], no_worker_left: None
):
    broken = breaker.run(work, step, ARRIVALS[step], fault)

    assert broken.faults == [{"step": step, "workers": 1}], broken.stderr
    assert broken.outcome in expected_outcomes(step, fault), broken.stderr
    assert broken.status == (-signal.SIGKILL if fault == "group_killed" else 0)
    eventually(lambda: broken.process.living_processes() == [])
    published = work.published()
    if step == "published" or fault == "worker_killed":
        assert published
    elif (step, fault) not in {(step, "stop_signal") for step in PUBLISHING_STEPS}:
        assert not published

    durable, asked_before = work.staged_rows(), work.asked()
    manifest = work.run()

    work.assert_finished()
    if published:
        assert manifest.skipped == "up_to_date"
        assert work.asked() == asked_before
    else:
        assert manifest.resumed_rows == len(durable)
        assert set(work.asked() - asked_before).isdisjoint(durable)
    assert work.repeats() <= may_repeat(step, fault, work)
    assert max(work.asked().values()) <= 2


@pytest.mark.parametrize("step", ["send", "publish"])
def test_the_worker_ends_by_itself_when_only_its_parent_is_killed(
    step: str, work: Any, breaker: Any, eventually: Callable[..., Any]
):
    broken = breaker.run(work, step, ARRIVALS[step], "process_killed")

    assert broken.faults == [{"step": step, "workers": 1}], broken.stderr
    assert broken.status == -signal.SIGKILL
    eventually(lambda: broken.process.living_processes() == [])
    assert not work.published()

    work.run()

    work.assert_finished()
    assert work.repeats() <= not_yet_durable(work)


@pytest.mark.parametrize("fault", ["exception", "disk_full"])
def test_a_last_chunk_that_cannot_be_made_durable_fails_the_attempt_at_once(fault: str, work: Any, breaker: Any):
    broken = breaker.run(work, "stage", work.rows // work.chunk_rows, fault)

    assert len(broken.faults) == 1
    assert broken.outcome in OUTCOMES[fault], broken.stderr
    assert not work.published()
    assert "computed again" not in broken.stderr  # that is what a stage that somebody removed is answered with

    work.run()

    work.assert_finished()
    assert work.repeats() <= work.chunk_rows


def test_what_is_not_yet_durable_stays_bounded_while_the_disk_is_slow(
    work: Any, observe: Callable[..., None], injected_error: type[Exception]
):
    """A kill now would cost what was asked and is not durable: that must not grow with the slowness of the disk."""
    bound = not_yet_durable(work)
    most_asked = 0

    def hold_the_first_chunk(step: str) -> None:
        nonlocal most_asked
        if step == "stage":
            deadline = time.monotonic() + 3.0
            while time.monotonic() < deadline and most_asked <= bound:
                most_asked = len(work.asked())
            raise injected_error

    observe(hold_the_first_chunk)
    with pytest.raises(injected_error):
        work.run()

    assert work.chunk_rows <= most_asked <= bound


@pytest.mark.usefixtures("workers_by_command")
def test_a_worker_that_dies_at_birth_is_replaced(work: Any, monkeypatch: pytest.MonkeyPatch):
    """It may be gone before this process has started to listen to all it says."""
    killed: list[int] = []

    class DiesAtBirth(subprocess.Popen):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            if not killed:
                killed.append(self.pid)
                self.kill()

    class StartsSlowly(threading.Thread):
        def start(self) -> None:
            super().start()
            if killed and self.name == "mullama-read_forever":
                self.join(3.0)  # the machine is busy: the next thread starts late

    monkeypatch.setattr(client.subprocess, "Popen", DiesAtBirth)
    monkeypatch.setattr(client.threading, "Thread", StartsSlowly)
    stop = threading.Event()
    impatience = threading.Timer(30.0, stop.set)
    impatience.start()
    try:
        work.run(stop=stop)
    finally:
        impatience.cancel()
        impatience.join()

    assert len(killed) == 1
    work.assert_finished()
    assert work.repeats() == 0


def test_a_row_that_is_merely_alone_when_somebody_kills_the_worker_gets_its_result(
    tmp_path: Path,
    make_work: Callable[..., Any],
    observe: Callable[..., None],
    workers: Callable[..., list[psutil.Process]],
    write_parquet: Callable[..., Path],
):
    work = make_work(write_parquet(tmp_path / "one.parquet", ["the only row"]), tmp_path)
    killed: list[int] = []

    def kill_once_asked(step: str) -> None:
        if step == "wait" and work.asked() and not killed:
            for worker in workers():
                killed.append(worker.pid)
                worker.kill()

    observe(kill_once_asked)
    work.job_settings["engine_options"]["delay_s"] = 2.0  # it is still at it at the next look

    manifest = work.run()

    assert len(killed) == 1
    assert manifest.status_counts == {"success": 1}
    assert work.asked() == {0: 2}
