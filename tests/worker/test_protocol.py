from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.worker.protocol import (
    REQUEST_SCHEMA,
    Frame,
    outcome_schema,
    read_batch,
    read_frame,
    write_batch,
    write_frame,
    write_json,
)

texts = st.text(st.characters(exclude_categories=("Cs",)))


@given(st.lists(st.tuples(st.sampled_from(Frame), st.binary(max_size=300))))
def test_frames_come_back_as_they_went(frames: list[tuple[Frame, bytes]]) -> None:
    stream = io.BytesIO()
    for kind, payload in frames:
        write_frame(stream, kind, payload)
    stream.seek(0)
    for frame in frames:
        assert read_frame(stream) == frame
    assert read_frame(stream) is None


lengths = st.integers(0, 2**31 - 1)
spans = st.none() | st.lists(lengths, max_size=6)
turns = st.none() | st.lists(st.fixed_dictionaries({"role": texts, "length": lengths}), max_size=3)

pictures = st.none() | st.lists(
    st.fixed_dictionaries({"media_type": st.just("image/png"), "data": st.binary(max_size=99)}), max_size=3
)


@given(
    st.lists(st.tuples(st.integers(0, 2**60), st.integers(1, 100), texts, st.none() | texts, spans, turns, pictures))
)
def test_requests_come_back_as_they_went(rows: list[tuple[Any, ...]]) -> None:
    columns = list(zip(*rows, strict=True)) or [() for _ in REQUEST_SCHEMA]
    batch = pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, REQUEST_SCHEMA, strict=True)],
        schema=REQUEST_SCHEMA,
    )
    stream = io.BytesIO()
    write_batch(stream, Frame.REQUESTS, batch)
    stream.seek(0)
    frame = read_frame(stream)
    assert frame is not None
    assert frame[0] is Frame.REQUESTS
    assert read_batch(frame[1]).equals(batch)


@pytest.mark.parametrize(("task", "dimensions"), [("generate", None), ("embed", 3)])
def test_outcomes_come_back_as_they_went(task: str, dimensions: int | None) -> None:
    schema = outcome_schema(task, dimensions)
    row: dict[str, Any] = {"row": 7, "prompt_tokens": 3, "embedding": [1.0, 2.0, 3.0], "response": "🧾"}
    error = {"row": 8, "error_type": "timeout", "error": "too slow"}
    batch = pa.RecordBatch.from_pylist([row, error], schema=schema)
    stream = io.BytesIO()
    write_batch(stream, Frame.OUTCOMES, batch)
    stream.seek(0)
    frame = read_frame(stream)
    assert frame is not None
    assert read_batch(frame[1]).to_pylist() == batch.to_pylist()


def test_control_frames_are_json() -> None:
    stream = io.BytesIO()
    write_json(stream, Frame.STUCK, {"rows": [1, 2], "text": "é"})
    stream.seek(0)
    frame = read_frame(stream)
    assert frame is not None
    assert frame[0] is Frame.STUCK
    assert json.loads(frame[1]) == {"rows": [1, 2], "text": "é"}


@given(st.integers(0, 24))
def test_a_pipe_that_closes_within_a_frame_is_closed(length: int) -> None:
    stream = io.BytesIO()
    write_frame(stream, Frame.LOG, b"x" * 20)
    assert stream.tell() == 25
    assert read_frame(io.BytesIO(stream.getvalue()[:length])) is None
