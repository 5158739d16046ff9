"""When a call counts as hung, also where nobody has set a limit."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama.engines.base import EngineSettings, Request
from airflow_mullama.worker.client import request_batch
from airflow_mullama.worker.host import HUNG_SECONDS, STUCK_GRACE_SECONDS, Host, StuckRows, call_seconds
from airflow_mullama.worker.protocol import Frame, read_frame, write_batch


def settings(row_timeout: float | None, **of_job: Any) -> EngineSettings:
    return EngineSettings(task="generate", model="echo", options={}, settings=of_job, row_timeout=row_timeout)


def test_a_row_timeout_counts_for_each_row_of_a_call() -> None:
    assert call_seconds(settings(10.0, max_tokens=256), 1) == 10.0 + STUCK_GRACE_SECONDS
    assert call_seconds(settings(10.0), 4) == 40.0 + STUCK_GRACE_SECONDS


def test_without_one_a_call_has_an_hour_and_a_second_for_each_token() -> None:
    assert call_seconds(settings(None, max_tokens=256), 1) == HUNG_SECONDS + 256
    assert call_seconds(settings(None), 64) == HUNG_SECONDS  # an embedding has no tokens to write


class NeverReady:
    """An engine that does not get done with preparing."""

    def prepare(self, requests: Sequence[Request]) -> Any:
        threading.Event().wait()


@pytest.mark.timeout(30)
def test_rows_that_are_prepared_without_end_are_told_of_too() -> None:
    asked = io.BytesIO()
    texts = pa.array(["a", "b"], pa.large_string())
    write_batch(asked, Frame.REQUESTS, request_batch(pa.array([3, 4]), pa.array([1, 1], pa.int32()), texts))
    asked.seek(0)
    frame = read_frame(asked)
    assert frame is not None
    host = Host(io.BytesIO(), io.BytesIO())
    host._arrived.put(frame[1])
    threading.Thread(target=host._prepare_forever, args=(NeverReady(),), daemon=True).start()
    host._watch_forever(lambda rows: 0.05)
    assert host._finished.get() == StuckRows(alone=[], shared=[3, 4])
