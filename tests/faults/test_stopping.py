"""Whoever asks it to stop, and whenever: it ends soon, says how far it came, and the next attempt goes on there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from airflow_mullama.errors import JobStoppedError
from airflow_mullama.steps import STEPS

SCRIPTS = Path(__file__).parent
STOPPED = 130
EXIT_SECONDS = 10.0  # it promises five; the machine is shared
MESSAGE = re.compile(
    r"Stopped at (\d+) of (\d+) rows of .*; what is finished is kept in .* and the next attempt goes on from there"
)
SIGNALS = [signal.SIGINT, signal.SIGTERM]


class CommandLine:
    """``airflow-mullama generate`` in a session of its own."""

    def __init__(self, work: Any, folder: Path, environment: dict[str, str], eventually: Callable[..., Any]) -> None:
        self._work, self._folder, self._environment, self._eventually = work, folder, environment, eventually
        self._process: subprocess.Popen[bytes] | None = None
        self.held = folder / "held"

    def start(self, *, hold: str | None = None, **options: Any) -> None:
        settings = {**self._work.job_settings["engine_options"], **options}
        pairs = [f"{name}={value}" for name, value in settings.items()]
        module = ["-m", "airflow_mullama.cli"] if hold is None else [str(SCRIPTS / "held_cli.py"), hold, str(self.held)]
        arguments = ["generate", str(self._work.source), str(self._work.output), "--model", "echo"]
        arguments += ["--prompt-template", "{text}", "--chunk-rows", str(self._work.chunk_rows)]
        arguments += [argument for pair in pairs for argument in ("--option", pair)]
        with open(self._folder / "stderr", "wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, *module, *arguments],
                env={**self._environment, "COLUMNS": "500"},
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

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
        assert self._process is not None
        status = self._process.wait(EXIT_SECONDS)
        self._eventually(lambda: self.left() == [], EXIT_SECONDS)
        return status

    def left(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (OSError, psutil.Error):
                continue
        return found

    def close(self) -> None:
        if self._process is not None:
            for process in self.left():
                process.kill()
            self._process.wait()


@pytest.fixture
def command_line(
    work: Any, tmp_path: Path, script_environment: dict[str, str], eventually: Callable[..., Any]
) -> Iterator[CommandLine]:
    line = CommandLine(work, tmp_path, script_environment, eventually)
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
    command_line.start(delay_s=0.01)
    eventually(lambda: work.asked().total() >= 90)

    os.kill(command_line.pid, number)

    assert command_line.wait() == STOPPED
    done = rows_done(command_line.said(), work)
    assert done >= 90 - work.window
    assert len(work.staged_rows()) == done
    assert not work.published()

    manifest = work.run()

    assert manifest.resumed_rows == done
    work.assert_finished()
    assert work.repeats() <= work.window


def test_a_signal_to_the_whole_process_group_keeps_every_finished_row(
    work: Any, command_line: CommandLine, eventually: Callable[..., Any]
):
    command_line.start(delay_s=0.01)
    eventually(lambda: work.asked().total() >= 90)

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
    [("read", 9), ("render", 18), ("send", 100), ("wait", 100), ("result", 100), ("stage", 12), ("staged", 12)],
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
