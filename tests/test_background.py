from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from airflow_mullama import background
from airflow_mullama.background import ABANDON_SECONDS, BackgroundWork, map_ahead
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


def test_what_is_mapped_ahead_comes_in_order_and_an_error_when_its_turn_comes() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return 10 * number

    results = map_ahead(work, range(6), 4, "ahead")
    assert [next(results) for _ in range(3)] == [0, 10, 20]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_no_more_is_mapped_ahead_than_may_be_at_once() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    results = map_ahead(lambda number: number, items(), 3, "ahead")
    next(results)
    assert taken == [0, 1, 2]
    next(results)
    assert taken == [0, 1, 2, 3]
    assert list(results) == list(range(2, 10))


def test_several_are_worked_on_at_once_on_threads_and_one_on_none() -> None:
    together = threading.Barrier(4)  # broken, where they come one after the other
    assert sum(map_ahead(lambda number: together.wait(30.0) * 0 + number, range(4), 4, "ahead")) == 6
    here = threading.get_ident()
    assert list(map_ahead(lambda number: threading.get_ident() == here, range(2), 1, "ahead")) == [True, True]
