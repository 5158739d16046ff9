"""Airflow's own commands, several in one process: each start of it costs seconds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

RUN_COMMANDS = """
import contextlib, gc, io, json, shlex, sys
gc.set_threshold(50_000)
from airflow.__main__ import main
for command in sys.argv[1:]:
    sys.argv = ["airflow", *shlex.split(command)]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            main()
    finally:
        print(json.dumps(printed.getvalue()))
"""


def run_airflow(*commands: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run commands one after the other; what each printed is one line of JSON.

    Args:
        commands: without the word ``airflow``.
        environment: all of it.
    """
    return subprocess.run(
        [sys.executable, "-c", RUN_COMMANDS, *commands],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
