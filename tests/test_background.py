from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from airflow_mullama import background
from airflow_mullama.background import ABANDON_SECONDS, BackgroundWork
from airflow_mullama.errors import JobStoppedError


def test_its_result_and_its_error_reach_who_waits() -> None:
    assert BackgroundWork(lambda check: 7, "test").wait(lambda: None) == 7
    failing = BackgroundWork(lambda check: 1 // 0, "test")
    with pytest.raises(ZeroDivisionError):
        failing.wait(lambda: None)
    assert isinstance(failing.error, ZeroDivisionError)


def test_who_gives_up_ends_the_work() -> None:
    ended = threading.Event()

    def work(check: Callable[[], None]) -> None:
        try:
            while True:
                check()
        finally:
            ended.set()

    running = BackgroundWork(work, "test")
    running.give_up()
    assert ended.wait(30)
    running.abandon()
    assert isinstance(running.error, JobStoppedError)


def test_work_that_does_not_end_is_waited_for_once_however_often_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, waits, free = [100.0], [], threading.Event()
    monkeypatch.setattr(background.time, "monotonic", lambda: now[0])
    running = BackgroundWork(lambda check: free.wait(60), "test")
    join = running._thread.join
    monkeypatch.setattr(
        running._thread, "join", lambda seconds: (waits.append(seconds), now.append(now.pop() + seconds))
    )
    running.give_up()
    now[0] += 0.5  # rows were saved meanwhile
    running.abandon()
    running.abandon()
    free.set()
    join(60)
    assert waits == [ABANDON_SECONDS - 0.5, 0.0]
