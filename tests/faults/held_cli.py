"""The command line, with a run that stands still at a step; its arguments are ``STEP MARK ARGUMENTS...``."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from airflow_mullama import fail_points as steps
from airflow_mullama.commands import main as cli


def main() -> None:
    held_step, mark, *arguments = sys.argv[1:]

    def hold(step: str) -> None:
        if step == held_step:
            Path(mark).touch()
            threading.Event().wait()

    steps.observer = hold
    cli.main(arguments)


if __name__ == "__main__":
    main()
