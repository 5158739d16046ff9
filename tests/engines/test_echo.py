from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airflow_mullama.engines.base import Embedding, EngineSettings, Generation, NoAnswer, Request
from airflow_mullama.engines.echo import EchoEngine, hash_vector, parse_faults
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.rows import ErrorType, RowError


def engine(task: Any = "generate", max_tokens: int = 256, **options: Any) -> EchoEngine:
    settings = {"max_tokens": max_tokens} if task == "generate" else {}
    return EchoEngine(EngineSettings(task=task, model="echo", options=options, settings=settings))


def test_it_answers_with_the_request() -> None:
    (answer,) = engine().run([Request(0, 1, "two  words\n🧾")])
    assert answer == Generation("two  words\n🧾", "stop", 3, 3)


def test_max_tokens_cuts_the_answer() -> None:
    (answer,) = engine(max_tokens=2).run([Request(0, 1, "one two three")])
    assert answer == Generation("one two", "length", 3, 2)


def thinking(text: str, most: int = 256, **reasoning: Any) -> Any:
    settings = {"max_tokens": most, "reasoning": {"mode": "separate", **reasoning}}
    (outcome,) = EchoEngine(EngineSettings("generate", "echo", {}, settings)).run([Request(0, 1, text)])
    return outcome


def test_a_request_with_a_thought_is_an_answer_with_one() -> None:
    assert thinking("<think>\nlet me see\n</think>\n\nyes") == Generation(
        "yes", "stop", 6, 4, reasoning="let me see", reasoning_tokens=3
    )
    assert thinking("(hm) yes", tags=["(", ")"]).reasoning == "hm"


def test_a_thought_may_leave_no_room_for_an_answer_or_have_a_limit() -> None:
    cut = thinking("<think>let me see</think>yes", 3)
    assert isinstance(cut, NoAnswer)
    assert (cut.generation.reasoning, cut.error.error_type) == ("let me see", ErrorType.NO_ANSWER)
    assert isinstance(thinking("<think>let me see</think>yes it is", 2), NoAnswer)
    limited = thinking("<think>let me see</think>yes it is", 2, max_tokens=2)
    assert (limited.reasoning, limited.response, limited.finish_reason) == ("let me", "yes it", "length")


def test_a_vector_is_always_the_same_for_the_same_text() -> None:
    first, again, other = engine("embed").run([Request(0, 1, "a"), Request(1, 1, "a"), Request(2, 1, "b")])
    assert isinstance(first, Embedding)
    assert isinstance(again, Embedding)
    assert isinstance(other, Embedding)
    assert first.vector.dtype == np.float32
    assert first.vector.shape == (8,)
    np.testing.assert_array_equal(first.vector, again.vector)
    np.testing.assert_array_equal(first.vector, hash_vector("a", 8))
    assert not np.array_equal(first.vector, other.vector)


def test_a_request_beyond_n_ctx_is_too_long() -> None:
    fits, error = engine(n_ctx=3).prepare([Request(0, 1, "one two"), Request(1, 1, "one two three")])
    assert isinstance(fits, Request)
    assert isinstance(error, RowError)
    assert error.error_type is ErrorType.PROMPT_TOO_LONG


def test_scripted_failures_hit_their_rows_and_attempts() -> None:
    broken = engine(faults={"fail": [1], "fail_once": [2]})
    requests = [Request(row, attempt, "x") for row in (0, 1, 2) for attempt in (1, 2)]
    failed = [isinstance(outcome, RowError) for outcome in broken.run(requests)]
    assert failed == [False, False, True, True, True, False]


def test_the_request_log_gets_a_line_for_each_request(tmp_path: Path) -> None:
    path = tmp_path / "log"
    engine(request_log=str(path)).run([Request(3, 1, "x"), Request(4, 1, "y")])
    assert path.read_text() == "3\n4\n"


def test_faults_are_keyed_by_row() -> None:
    assert parse_faults({"fail": [3, 5], "crash": [7]}) == {3: "fail", 5: "fail", 7: "crash"}


@pytest.mark.parametrize(
    ("faults", "named"), [({"explode": [1]}, "'explode'"), ({"fail": 3}, "is 3"), ({"fail": ["3"]}, r"\['3'\]")]
)
def test_a_fault_that_makes_no_sense_is_refused(faults: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        parse_faults(faults)


def test_an_answer_ends_before_a_stop_text_and_at_the_end_of_n_ctx() -> None:
    settings = {"max_tokens": 9, "sampling": {"stop": ["three"]}}
    stopping = EchoEngine(EngineSettings(task="generate", model="echo", options={"n_ctx": 7}, settings=settings))
    before, cut = stopping.run([Request(0, 1, "one two three four"), Request(1, 1, "a b c d e")])
    assert before == Generation("one two ", "stop", 4, 2)
    assert cut == Generation("a b", "length", 5, 2)
