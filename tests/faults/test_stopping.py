"""Whoever asks it to stop, and whenever: it ends soon, says how far it came, and the next attempt goes on there."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from airflow_mullama.errors import JobStoppedError
from airflow_mullama.fail_points import STEPS

STOPPED = 130
EXIT_SECONDS = 10.0  # it promises five; the machine is shared
MESSAGE = re.compile(
    r"Stopped at (\d+) of (\d+) rows of .*; what is finished is kept in .* and the next attempt goes on from there"
)
SIGNALS = [signal.SIGINT, signal.SIGTERM]


class CommandLine:
    """``airflow-mullama generate`` in a session of its own."""

    def __init__(self, work: Any, folder: Path, sessions: Any, eventually: Callable[..., Any]) -> None:
        self._work, self._folder, self._sessions, self._eventually = work, folder, sessions, eventually
        self._process: Any = None
        self.held = folder / "held"

    def start(self, *, hold: str | None = None, **options: Any) -> None:
        settings = {**self._work.job_settings["engine_options"], **options}
        arguments = ["generate", str(self._work.source), str(self._work.output), "--model", "echo"]
        arguments += ["--prompt-template", "{text}", "--chunk-rows", str(self._work.chunk_rows)]
        arguments += [argument for name, value in settings.items() for argument in ("--option", f"{name}={value}")]
        if hold is None:
            module = "airflow_mullama.commands.main"
        else:
            module, arguments = "tests.faults.held_cli", [hold, str(self.held), *arguments]
        self._process = self._sessions.start(module, *arguments, stderr=self._folder / "stderr", COLUMNS="500")

    @property
    def pid(self) -> int:
        pid: int = self._process.pid
        return pid

    def said(self) -> str:
        return (self._folder / "stderr").read_text()

    def worker(self) -> psutil.Process:
        """Wait until the worker runs its own program; before that, its parent waits for it to begin."""

        def running() -> psutil.Process | None:
            children = psutil.Process(self.pid).children()
            return next((child for child in children if "airflow_mullama.worker" in child.cmdline()), None)

        return self._eventually(running)

    def wait(self) -> int:
        """The exit status, once nothing of the session is left."""
        status: int = self._process.wait(EXIT_SECONDS)
        self._eventually(lambda: self._process.living_processes() == [], EXIT_SECONDS)
        return status

    def close(self) -> None:
        if self._process is not None:
            self._process.close()


@pytest.fixture
def command_line(work: Any, tmp_path: Path, sessions: Any, eventually: Callable[..., Any]) -> Iterator[CommandLine]:
    line = CommandLine(work, tmp_path, sessions, eventually)
    yield line
    line.close()


def rows_done(message: str, work: Any) -> int:
    """What the message says of how far it came."""
    found = MESSAGE.search(message)
    assert found, message
    assert int(found[2]) == work.rows
    return int(found[1])


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_inference_keeps_every_finished_row(
    number: signal.Signals, work: Any, command_line: CommandLine, eventually: Callable[..., Any]
):
    command_line.start(delay_s=0.02)
    eventually(lambda: work.asked().total() >= 50)

    os.kill(command_line.pid, number)

    assert command_line.wait() == STOPPED
    done = rows_done(command_line.said(), work)
    assert done >= 50 - work.window
    assert len(work.staged_rows()) == done
    assert not work.published()

    manifest = work.run()

    assert manifest.resumed_rows == done
    work.assert_finished()
    assert work.repeats() <= work.window


def test_a_signal_to_the_whole_process_group_keeps_every_finished_row(
    work: Any, command_line: CommandLine, eventually: Callable[..., Any]
):
    command_line.start(delay_s=0.02)
    eventually(lambda: work.asked().total() >= 50)

    os.killpg(command_line.pid, signal.SIGTERM)

    assert command_line.wait() == STOPPED
    assert rows_done(command_line.said(), work) == len(work.staged_rows())

    work.run()

    work.assert_finished()
    assert work.repeats() <= work.window


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_an_engine_that_hangs(
    number: signal.Signals, work: Any, command_line: CommandLine, eventually: Callable[..., Any]
):
    command_line.start(faults='{"hang": [100, 101]}')
    eventually(lambda: {100, 101} <= set(work.asked()))

    os.kill(command_line.pid, number)

    assert command_line.wait() == STOPPED
    assert rows_done(command_line.said(), work) == len(work.staged_rows())

    work.run()

    work.assert_finished()
    assert work.repeats() <= work.window


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_load_ends_an_engine_that_does_not_answer(
    number: signal.Signals, work: Any, command_line: CommandLine
):
    command_line.start(delay_s=0.05)
    command_line.worker().suspend()  # as a load that holds its process does

    os.kill(command_line.pid, number)

    assert command_line.wait() == STOPPED
    assert rows_done(command_line.said(), work) == len(work.staged_rows())
    assert not work.published()

    work.run()

    work.assert_finished()
    assert work.repeats() <= work.window


@pytest.mark.parametrize("step", ["commit", "write", "publish"])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_publishing_leaves_no_half_output(
    number: signal.Signals, step: str, work: Any, command_line: CommandLine, eventually: Callable[..., Any]
):
    command_line.start(hold=step)
    eventually(command_line.held.exists)

    os.kill(command_line.pid, number)

    assert command_line.wait() == STOPPED
    assert rows_done(command_line.said(), work) == work.rows
    assert not work.output.exists()

    manifest = work.run()

    assert manifest.resumed_rows == work.rows
    work.assert_finished()
    assert work.repeats() == 0


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_it_at_once(
    number: signal.Signals, work: Any, command_line: CommandLine, eventually: Callable[..., Any]
):
    command_line.start(hold="publish")
    eventually(command_line.held.exists)

    os.kill(command_line.pid, number)
    eventually(lambda: "stopping" in command_line.said())
    os.kill(command_line.pid, number)

    assert command_line.wait() == -number
    work.run()
    work.assert_finished()
    assert work.repeats() == 0


@pytest.mark.parametrize(
    ("step", "arrival"),
    [("read", 9), ("render", 18), ("send", 50), ("wait", 50), ("result", 50), ("stage", 12), ("staged", 12)],
)
def test_an_event_set_anywhere_stops_the_run(
    step: str, arrival: int, work: Any, observe: Callable[..., None], no_worker_left: None
):
    stop = threading.Event()
    arrivals = 0

    def set_the_event(reached: str) -> None:
        nonlocal arrivals
        arrivals += reached == step
        if arrivals == arrival:
            stop.set()

    observe(set_the_event)
    with pytest.raises(JobStoppedError) as stopped:
        work.run(stop=stop)
    done = rows_done(str(stopped.value), work)
    assert 0 < done == len(work.staged_rows()) < work.rows
    assert not work.published()

    manifest = work.run()

    assert manifest.resumed_rows == done
    work.assert_finished()
    assert work.repeats() <= work.window


def test_an_event_that_is_set_already_starts_no_worker(work: Any, started_workers: Any):
    stop = threading.Event()
    stop.set()

    with pytest.raises(JobStoppedError, match=f"Stopped at 0 of {work.rows} rows"):
        work.run(stop=stop)

    assert len(started_workers) == 0
    work.run()
    work.assert_finished()


def test_an_event_set_when_the_output_is_there_changes_nothing(work: Any, observe: Callable[..., None]):
    stop = threading.Event()
    observe(lambda step: stop.set() if step == STEPS[-1] else None)

    work.run(stop=stop)

    work.assert_finished()
