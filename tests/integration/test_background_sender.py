"""Telling somebody who may be slow, or may refuse."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


@pytest.fixture
def new_sender(airflow_home: Path) -> Callable[..., Any]:
    from airflow_mullama.operators.background_sender import BackgroundSender

    return BackgroundSender


def test_offering_never_waits_and_what_is_overtaken_is_not_sent(new_sender: Callable[..., Any]) -> None:
    sent: list[int] = []
    begun, stands = threading.Event(), threading.Event()

    def send(value: int) -> None:
        begun.set()
        stands.wait()
        sent.append(value)

    sender = new_sender(send, in_background=True)
    sender.offer(1)
    begun.wait()
    for value in range(2, 100):  # the first one is still on its way
        sender.offer(value)
    assert sent == []
    stands.set()
    sender.close()
    assert sent == [1, 99]
    sender.offer(100)
    assert sent == [1, 99]


def test_closing_does_not_wait_for_ever(new_sender: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_mullama.operators import background_sender

    monkeypatch.setattr(background_sender, "LAST_SECONDS", 0.05)
    stands = threading.Event()
    sender = new_sender(lambda value: stands.wait(), in_background=True)
    sender.offer(1)
    sender.close()
    stands.set()


@pytest.mark.parametrize("in_background", [True, False])
def test_a_failure_is_told_once_and_the_next_value_is_tried(
    new_sender: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
    in_background: bool,
) -> None:
    tried: list[int] = []

    def send(value: int) -> None:
        tried.append(value)
        if value < 3:
            raise ConnectionError("502 Bad Gateway")

    sender = new_sender(send, in_background=in_background)
    with caplog.at_level(logging.INFO, "airflow_mullama"):
        for value in (1, 2, 3, 4):
            sender.offer(value)
            eventually(lambda value=value: tried[-1:] == [value])
        sender.close()
    words = [record.getMessage() for record in caplog.records]
    assert words == [
        "progress is shown in this log only until Airflow takes it again (502 Bad Gateway)",
        "Airflow takes the progress again",
    ]
