"""The comparison with other clients, without them: its server, our side of it, and its count of CPU seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

sys.path.insert(0, str(BENCHMARKS))
try:
    from _clients import CLIENTS, OURS, Client
    from _process_tree import readings
    from peers import not_measured
finally:
    sys.path.remove(str(BENCHMARKS))

BURN = "import time\nwhile time.process_time() < 0.5: pass"
MARKED = """
import subprocess, sys
print(flush=True)
input()
{child}
print(flush=True)
input()
sys.exit({status})
"""


def measure(tmp_path: Path, child: str, status: int = 0) -> list[float]:
    """CPU seconds at two marks, between which the child was started, and at the end."""
    code = MARKED.format(child=child, status=status)
    command = [sys.executable, "-c", code, BURN]
    return [one.cpu for one in readings(command, os.environ, tmp_path / "log", psutil.Process(), 60.0)]


@pytest.mark.integration
def test_our_side_runs_and_gives_its_figures(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "peers.py"), "--only", OURS, "--rows", "40", "--in-flight", "4"]
    command += ["--repetitions", "1", "--json", str(tmp_path / "figures.json")]
    environment = {**os.environ, "AIRFLOW_MULLAMA_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (figures,) = json.loads((tmp_path / "figures.json").read_text())
    assert figures["responses"] == 40
    assert figures["start"]["cpu"] > 0
    assert figures["start"]["beside"] > 0, "the server computed nothing"
    *_, ours = done.stdout.splitlines()
    assert ours.startswith("| airflow-mullama ")
    assert ours.endswith("| 0 of 40 |")


def test_a_peer_that_is_not_installed_is_named_with_what_installs_it() -> None:
    absent = Client(CLIENTS[OURS].ask, ("there_is_no_such_module",), "absent", "pip install absent")
    (line,) = not_measured({OURS: CLIENTS[OURS], "a peer": absent})
    assert line.startswith("a peer: not measured")
    assert "pip install absent" in line


def test_a_child_that_ended_is_counted(tmp_path: Path) -> None:
    before, after, end = measure(tmp_path, "subprocess.run([sys.executable, '-c', sys.argv[1]])")
    assert after - before >= 0.4  # the kernel counts in hundredths, of each process
    assert end >= after


def test_a_child_that_nobody_waited_for_is_counted(tmp_path: Path) -> None:
    child = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    child += (
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE); child.stdout.read()"
    )
    before, after, _ = measure(tmp_path, child)
    assert after - before >= 0.25  # what it did after the last look at it is not known


def test_a_client_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)status 1:.*there is no such name"):
        measure(tmp_path, "sys.exit('there is no such name')")


def test_a_client_that_does_not_end_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(RuntimeError, match="status -9"):
        list(readings(command, os.environ, tmp_path / "log", psutil.Process(), 0.2))
