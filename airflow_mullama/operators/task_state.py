"""What a task leaves in Airflow for others to read: in its state store, or in an XCom where Airflow has none."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from airflow_mullama.compat import AirflowFailException, task_state_store
from airflow_mullama.errors import JobStoppedError, MullamaError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

MANIFEST_KEY = "manifest"
FAILURE_KEY = "failure"
MOST_FAILURE_CHARACTERS = 4000


def leave_manifest(context: Any, account: Any) -> None:
    """Leave the numbers of finished work where the tab finds them whatever keeps the XComs."""
    if task_state_store(context) is not None:
        _leave(context, MANIFEST_KEY, account)


def leaving_why_it_failed(execute: Callable[..., Result]) -> Callable[..., Result]:
    """Make an operator's ``execute`` leave the sentence that it fails with."""

    @functools.wraps(execute)
    def executed(self: Any, context: Any) -> Result:
        try:
            return execute(self, context)
        except JobStoppedError:
            raise  # Airflow ends the task, and knows why; there is no time to ask it for anything
        except (MullamaError, AirflowFailException) as error:
            cause = error.__cause__ if isinstance(error.__cause__, MullamaError) else error
            message = str(error)[:MOST_FAILURE_CHARACTERS]
            _leave(context, FAILURE_KEY, {"error": type(cause).__name__, "message": message})
            raise

    return executed


def _leave(context: Any, key: str, value: Any) -> None:
    store = task_state_store(context)
    try:
        if store is not None:
            store.set(key, value)
        else:
            context["ti"].xcom_push(key=key, value=value)
    except Exception as error:  # noqa: BLE001 - what is only looked at must not cost the work, nor hide why it failed
        log.warning("Airflow would not take what the tab shows as %r: %s", key, error)
