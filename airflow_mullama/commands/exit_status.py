"""How a command ended, as a shell sees it."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """What ``airflow-mullama`` exits with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    """The arguments cannot work; argparse's own status too."""
    ERROR_BUDGET = 3
    """The output is written, and too many of its rows failed."""
    BUDGET_SPENT = 4
    """``max_seconds`` or ``max_tokens_total``; what is finished is kept."""
    STOPPED = 130
    """By Ctrl-C or SIGTERM; what is finished is kept."""
