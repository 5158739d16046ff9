"""The window's decisions on events that no echo engine can be made to send; real workers are in test_runner."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from airflow_mullama import EmbedJob, GenerateJob
from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.errors import EngineFailedError, ModelLoadError, WorkerCrashError
from airflow_mullama.run.dead_engine import DEAD_ENGINE_ROWS
from airflow_mullama.run.request_window import TRIAL_ROW, RequestWindow
from airflow_mullama.worker.client import Exited, Outcomes, Refused, Started
from airflow_mullama.worker.protocol import outcome_schema
from airflow_mullama.worker.session import EngineSession

WINDOW = 64


@pytest.fixture
def session(no_worker_left: None, request: pytest.FixtureRequest) -> Iterator[EngineSession]:
    """A session whose real worker hangs on every row, so that the test decides what comes back."""
    options = {"faults": {"hang": list(range(1000))}, "n_parallel": 32}
    job = getattr(request, "param", GenerateJob(model="echo", prompt_column="text"))
    settings = EngineSettings(task=job.task, model="echo", options=options, settings=job.engine_settings())
    session = EngineSession("echo", settings)
    yield session
    session.close()


def open_window(session: EngineSession, rows: int, max_retries: int = 0) -> RequestWindow:
    window = RequestWindow(session, max_retries)
    window.offer(range(rows), [f"row {row}" for row in range(rows)])
    send(window, session)
    return window


def send(window: RequestWindow, session: EngineSession) -> None:
    while not session.ready_seats:
        window.send()
        event = session.events.get(timeout=60)
        assert isinstance(event, (Started, Exited))  # the latter of a worker that was given up
        window.handle(event)
    window.send()


def outcomes(rows: list[int], errors: list[str | None], error_type: str = "engine_error") -> Outcomes:
    missing = [error is not None for error in errors]
    schema = outcome_schema("generate", None)
    batch = pa.RecordBatch.from_pydict(
        {
            **{name: [None] * len(rows) for name in schema.names},
            "row": rows,
            "error_type": [error_type if failed else None for failed in missing],
            "error": errors,
            "prompt_tokens": [None if failed else 1 for failed in missing],
            "response": [None if failed else "x" for failed in missing],
            "finish_reason": [None if failed else "stop" for failed in missing],
            "completion_tokens": [None if failed else 1 for failed in missing],
        },
        schema=schema,
    )
    return Outcomes(batch)


def died(session: EngineSession) -> Exited:
    worker = session.seats[0].worker
    assert worker is not None
    return Exited(worker, "was killed by SIGSEGV", ("last words",))


def test_the_window_is_filled_and_not_more(session: EngineSession) -> None:
    window = open_window(session, 3 * WINDOW)
    assert session.info is not None
    assert session.info.window == WINDOW
    assert len(window.rows_in_flight) == WINDOW
    assert window.busy
    assert not window.idle


@pytest.mark.parametrize(
    ("session", "order"),
    [
        (GenerateJob(model="echo", prompt_column="text"), [0, 2, 4, 1, 3, 5]),
        (EmbedJob(model="echo", text_column="text"), [0, 1, 2, 3, 4, 5]),  # no engine keeps what it embedded
    ],
    indirect=["session"],
)
def test_requests_with_one_beginning_are_laid_apart_for_slots_that_keep_it(
    session: EngineSession, order: list[int]
) -> None:
    window = RequestWindow(session, 0)
    window.offer(range(6), [f"{document * 64}{question}" for document in "abc" for question in "?!"])
    send(window, session)
    assert window.rows_in_flight == order


def test_rows_come_back_with_their_attempts_and_make_room(session: EngineSession) -> None:
    window = open_window(session, 3 * WINDOW)
    batch = window.handle(outcomes(list(range(32)), [None] * 32))
    assert batch is not None
    assert batch.column("attempts").to_pylist() == [1] * 32
    window.send()
    assert len(window.rows_in_flight) == WINDOW


def test_a_dead_engine_is_told_by_its_first_rows_failing_alike(session: EngineSession) -> None:
    window = open_window(session, 40)
    with pytest.raises(EngineFailedError) as caught:
        window.handle(outcomes(list(range(DEAD_ENGINE_ROWS)), ["CUDA error"] * DEAD_ENGINE_ROWS))
    assert "'echo'" in str(caught.value)
    assert "CUDA error" in str(caught.value)


def test_one_good_row_among_the_first_shows_that_the_engine_lives(session: EngineSession) -> None:
    window = open_window(session, 40)
    window.handle(outcomes([0], [None]))
    batch = window.handle(outcomes(list(range(1, 31)), ["CUDA error"] * 30))
    assert batch is not None
    assert batch.num_rows == 30


def test_errors_of_the_rows_own_do_not_make_an_engine_dead(session: EngineSession) -> None:
    window = open_window(session, 40)
    batch = window.handle(outcomes(list(range(30)), ["too long"] * 30, "prompt_too_long"))
    assert batch is not None
    assert batch.num_rows == 30


def test_the_retries_of_few_rows_are_not_many_rows(session: EngineSession) -> None:
    window = open_window(session, 2, max_retries=DEAD_ENGINE_ROWS)
    for _ in range(DEAD_ENGINE_ROWS):
        for row in sorted(window.rows_in_flight):
            window.handle(outcomes([row], ["CUDA error"]))
        while window._retries:
            window._retries = [(0.0, row, item) for _, row, item in window._retries]
            window.send()
    assert not window.idle


def test_a_retryable_error_is_asked_again_later_and_then_final(session: EngineSession) -> None:
    window = open_window(session, 2, max_retries=1)
    assert window.handle(outcomes([0, 1], ["first", None])).column("row").to_pylist() == [1]  # type: ignore[union-attr]
    wait = window.seconds_to_next_retry()
    assert wait is not None
    assert 0 < wait < 1
    assert not window.idle
    window._retries = [(0.0, row, item) for _, row, item in window._retries]
    window.send()
    batch = window.handle(outcomes([0], ["second"]))
    assert batch is not None
    assert batch.column("attempts").to_pylist() == [2]
    assert batch.column("error").to_pylist() == ["second"]
    assert window.idle


def test_a_crash_loop_that_no_row_explains_fails_with_the_last_words(session: EngineSession) -> None:
    window = open_window(session, 8)
    window.handle(died(session))
    session.start()
    window.handle(died(session))
    session.start()
    with pytest.raises(WorkerCrashError) as caught:
        window.handle(died(session))
    assert "was killed by SIGSEGV" in str(caught.value)
    assert "last words" in str(caught.value)


def test_a_row_is_found_guilty_once_the_engine_has_answered_another(session: EngineSession) -> None:
    window = open_window(session, 2)
    for _ in range(2):  # with its neighbour, then alone
        assert window.handle(died(session)) is None
        send(window, session)
    assert window.rows_in_flight == [1]
    batch = window.handle(outcomes([1], [None]))
    assert batch is not None
    assert batch.select(["row", "error_type", "response", "attempts"]).to_pylist() == [
        {"row": 1, "error_type": None, "response": "x", "attempts": 1},
        {"row": 0, "error_type": "engine_crash", "response": None, "attempts": 1},
    ]
    assert window.idle


def test_where_no_other_row_is_left_the_engine_is_asked_for_something_else(session: EngineSession) -> None:
    window = open_window(session, 1)
    for _ in range(2):
        assert window.handle(died(session)) is None
        assert not window.idle
        send(window, session)
    assert window.rows_in_flight == [TRIAL_ROW]
    batch = window.handle(outcomes([TRIAL_ROW], [None]))
    assert batch is not None
    assert batch.column("row").to_pylist() == [0]
    assert batch.column("error_type").to_pylist() == ["engine_crash"]
    assert window.idle


def test_an_engine_that_ends_on_trial_is_dead_and_no_row_is_guilty(session: EngineSession) -> None:
    window = open_window(session, 1)
    for _ in range(2):
        window.handle(died(session))
        send(window, session)
    with pytest.raises(WorkerCrashError, match="last words"):
        window.handle(died(session))


def test_a_refusal_to_start_is_the_tasks_error(session: EngineSession) -> None:
    window = RequestWindow(session, 0)
    with pytest.raises(ModelLoadError, match="no memory"):
        window.handle(Refused(ModelLoadError("no memory")))


def test_rows_suspected_in_an_earlier_attempt_stay_so_until_they_are_answered(session: EngineSession) -> None:
    window = RequestWindow(session, 0, {1: 1, 3: 1, 5: 2, 900: 1})
    window.offer(range(8), [f"row {row}" for row in range(8)])
    send(window, session)
    assert window.suspects == {1: 1, 3: 1, 5: 2, 900: 1}
    window.handle(outcomes([0, 2, 4, 6, 7], [None] * 5))  # and so the engine is not to blame for row 5
    window.send(all_offered=True)
    assert window.rows_in_flight == [1]
    window.handle(outcomes([1], [None]))
    assert window.suspects == {3: 1, 900: 1}  # the last has not been read yet
    window.send()
    window.handle(died(session))
    assert window.suspects == {3: 2, 900: 1}
