from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from airflow_mullama.byte_bounds import FRAME_BYTES
from airflow_mullama.engines.base import Embedding, EngineSettings, Generation, NoAnswer, Request
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.schemas import load_output_schema
from airflow_mullama.worker.outcomes import OutcomeBatches, check_text, in_frames
from airflow_mullama.worker.protocol import ANSWER, Frame, read_batch, read_frame, write_batch


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


def test_an_answer_that_is_refused_was_paid_for() -> None:
    answer = Generation("bro\ufffdken", "stop", 3, 5, reasoning="bro\ufffdken", reasoning_tokens=2)
    (row,) = batches("generate", reasoning={"mode": "separate"}).build([(Request(0, 1, "x"), answer)]).to_pylist()
    assert (row["error_type"], row["response"], row["reasoning"]) == ("undecodable_text", None, None)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (3, 5)


@pytest.mark.parametrize(("mode", "kept"), [("separate", "hm"), ("discard", None), ("off", None)])
def test_what_was_thought_is_kept_where_the_job_has_a_column_for_it(mode: str, kept: str | None) -> None:
    thought = Generation("a", "stop", 3, 5, reasoning="hm", reasoning_tokens=2)
    error = RowError(ErrorType.NO_ANSWER, "cut")
    finished: list[Any] = [(Request(0, 1, "x"), thought), (Request(1, 1, "x"), NoAnswer(thought, error))]
    good, bad = batches("generate", reasoning={"mode": mode}).build(finished).to_pylist()
    assert (good["response"], good["reasoning"], good["reasoning_tokens"]) == ("a", kept, 2)
    assert (bad["error_type"], bad["error"], bad["response"], bad["finish_reason"]) == ("no_answer", "cut", None, None)
    assert (bad["prompt_tokens"], bad["completion_tokens"], bad["reasoning"]) == (3, 5, kept)


def test_an_answer_is_read_once_and_crosses_the_pipe_as_its_values() -> None:
    schema = load_output_schema(
        {
            "type": "object",
            "properties": {
                "label": {"enum": ["a", "b", "c"]},
                "row": {"type": ["integer", "null"]},
                "parts": {"type": "array", "items": {"type": "object", "properties": {"kind": {"enum": ["x", "y"]}}}},
            },
            "required": ["label", "parts"],
        }
    )
    finished: list[Any] = [
        (Request(0, 1, "x"), Generation('{"label": "b", "parts": [{"kind": "y"}, {}]}', "stop", 1, 1)),
        (Request(1, 1, "x"), Generation('{"label": "z"}', "stop", 1, 1)),
        (Request(2, 1, "x"), RowError(ErrorType.TIMEOUT, "slow")),
        (Request(3, 1, "x"), Generation('{"label": "a", "row": 7, "parts": []}', "stop", 1, 1)),
    ]
    built = batches("generate", output_schema=schema.to_json())
    stream = io.BytesIO()
    for rows in (finished, finished[1:3]):
        write_batch(stream, Frame.OUTCOMES, built.build(rows))
    stream.seek(0)
    frames = [read_frame(stream), read_frame(stream)]
    batch, without = [read_batch(frame[1]) for frame in frames if frame is not None]
    batch.validate(full=True)
    without.validate(full=True)
    assert without[ANSWER].to_pylist() == [None, None]
    assert batch[ANSWER].type == pa.struct(list(schema.fields))
    assert batch[ANSWER].to_pylist() == [
        {"label": "b", "row": None, "parts": [{"kind": "y"}, {"kind": None}]},
        None,
        None,
        {"label": "a", "row": 7, "parts": []},
    ]
    assert batch["row"].to_pylist() == [0, 1, 2, 3]
    assert batch["error_type"].to_pylist() == [None, "schema_mismatch", "timeout", None]


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


def test_heavy_answers_are_sent_in_several_frames_and_none_is_lost() -> None:
    requests = [Request(row, 1, "text") for row in range(6)]
    weights = [1, FRAME_BYTES + 1, FRAME_BYTES // 2, FRAME_BYTES // 2, 1, 1]
    finished = [
        (request, Generation("x" * weight, "stop", 1, 1)) for request, weight in zip(requests, weights, strict=True)
    ]
    frames = [[request.row for request, _ in frame] for frame in in_frames(finished)]
    assert frames == [[0], [1], [2, 3], [4, 5]]
    assert list(in_frames([])) == []
