"""Signals that end the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from airflow_mullama.demo.airflow.stopping import Stopped, signals_stop

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def heard_signals() -> Iterator[None]:
    """Where the tests run under nohup, a hangup is ignored, and so it would be by what they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
def test_the_first_signal_ends_what_runs_and_no_other_disturbs_what_is_tidied_up(number: signal.Signals) -> None:
    before = {other: signal.getsignal(other) for other in NUMBERS}
    tidied: list[signal.Signals] = []

    def run() -> None:
        with signals_stop():
            try:
                os.kill(os.getpid(), number)
                threading.Event().wait(30.0)  # it need not arrive at once
            finally:
                for other in NUMBERS:
                    os.kill(os.getpid(), other)
                    tidied.append(other)

    with pytest.raises(Stopped) as stopped:
        run()
    assert tidied == NUMBERS
    assert stopped.value.number == number
    assert {other: signal.getsignal(other) for other in NUMBERS} == before


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    code = (
        "import os, signal\n"
        "from airflow_mullama.demo.airflow.stopping import signals_stop\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does\n"
        "with signals_stop():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
