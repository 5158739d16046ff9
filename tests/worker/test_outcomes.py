from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from airflow_mullama.engines.base import Embedding, EngineSettings, Generation, Request
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.worker.outcomes import OutcomeBatches, check_text


def batches(task: Any, n_embd: int | None = None, **settings: Any) -> OutcomeBatches:
    return OutcomeBatches(EngineSettings(task=task, model="echo", options={}, settings=settings), n_embd)


def test_answers_and_errors_stand_in_one_batch_in_order() -> None:
    finished = [
        (Request(4, 1, "x"), Generation("a", "stop", 3, 2)),
        (Request(2, 1, "x"), RowError(ErrorType.TIMEOUT, "slow")),
    ]
    good, bad = batches("generate").build(finished).to_pylist()
    assert (good["row"], good["response"], good["error_type"], good["completion_tokens"]) == (4, "a", None, 2)
    assert (bad["row"], bad["response"], bad["error_type"], bad["error"]) == (2, None, "timeout", "slow")


def test_vectors_are_checked_row_by_row() -> None:
    vectors = ([3.0, 4.0], [np.nan, 1.0], [0.0, 0.0])
    finished: list[Any] = [
        (Request(row, 1, "x"), Embedding(np.array(vector, np.float32), 5)) for row, vector in enumerate(vectors)
    ]
    finished.append((Request(3, 1, "x"), RowError(ErrorType.ENGINE_ERROR, "oops")))
    rows = batches("embed", 2, normalize=True, dimensions=None, dtype="float32").build(finished).to_pylist()
    assert rows[0]["embedding"] == pytest.approx([0.6, 0.8])
    assert [row["embedding"] for row in rows[1:]] == [None] * 3
    assert [row["error_type"] for row in rows] == [None, "non_finite_embedding", "zero_embedding", "engine_error"]
    assert [row["prompt_tokens"] for row in rows] == [5, None, None, None]


def test_vectors_may_be_cut() -> None:
    finished = [(Request(0, 1, "x"), Embedding(np.array([3.0, 4.0, 5.0], np.float32), 5))]
    (row,) = batches("embed", 3, normalize=False, dimensions=2, dtype="float32").build(finished).to_pylist()
    assert row["embedding"] == [3.0, 4.0]


def test_replacement_characters_that_the_request_did_not_have_are_an_error() -> None:
    outcome = check_text(Request(0, 1, "fine"), Generation("bro\ufffdken", "stop", 1, 1))
    assert isinstance(outcome, RowError)
    assert outcome.error_type is ErrorType.UNDECODABLE_TEXT


def test_replacement_characters_of_the_request_may_come_back() -> None:
    answer = Generation("an \ufffd", "stop", 1, 1)
    assert check_text(Request(0, 1, "say \ufffd"), answer) is answer


def test_a_character_that_the_length_limit_cut_is_cut_off_with_it() -> None:
    answer = check_text(Request(0, 1, "x"), Generation("caf\ufffd", "length", 1, 1))
    assert answer == Generation("caf", "length", 1, 1)
    assert isinstance(check_text(Request(0, 1, "x"), Generation("c\ufffdf\ufffd", "length", 1, 1)), RowError)
