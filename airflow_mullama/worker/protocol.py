"""What crosses the pipe: framed JSON for control, framed Arrow record batches for rows.

A frame is its payload's length (unsigned 32 bit, little endian), one byte for its kind, the payload. A record batch
travels as an Arrow IPC stream of its own, the one form that carries dictionaries; its schema costs some 15 µs.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, BinaryIO

import pyarrow as pa

from airflow_mullama.arrow_stream import StreamPieces
from airflow_mullama.rows import CHUNKS, REASONING, REASONING_TOKENS, TRUNCATED

HEADER = struct.Struct("<IB")


class Frame(IntEnum):
    """Kinds of frames."""

    CONFIGURE = 1
    """parent → worker, first: JSON of :class:`airflow_mullama.engines.base.EngineSettings`."""
    READY = 2
    """worker → parent: JSON of :class:`airflow_mullama.engines.base.EngineInfo`."""
    FAILED = 3
    """worker → parent, last: JSON ``{"error": class name, "message": sentence}``; the engine did not start."""
    REQUESTS = 4
    """parent → worker: a batch of :data:`REQUEST_SCHEMA`."""
    OUTCOMES = 5
    """worker → parent: a batch of the job's :func:`outcome_schema`."""
    LOG = 6
    """worker → parent: JSON ``{"level": number, "name": logger, "message": text}``."""
    STUCK = 7
    """worker → parent, last: JSON ``{"rows": [...], "shared": [...]}``: rows past their timeout that would not
    end, each in a call of its own, and rows that shared a call, any of which may be to blame."""
    LOST = 9
    """worker → parent, last: JSON ``{"how": "lost its server"}``: the engine cannot answer any more; any row that it
    has may be to blame."""
    RUNNING = 8
    """worker → parent: JSON ``{"rows": [...]}``: what an engine that holds the interpreter begins; if SIGALRM ends the
    worker, these rows were beyond their timeout."""

    PROMPTS = 10
    """worker → parent, if it was asked for: JSON ``[{"row": 0, "prompt": "...", "tokens": 12}]``: what the model
    gets."""


TURNS = pa.list_(pa.struct([("role", pa.string()), ("length", pa.int32())]))
"""The messages that a request's text consists of; null for a single one of the user."""

PICTURES = pa.list_(pa.struct([("media_type", pa.string()), ("data", pa.large_binary())]))
"""The pictures before the text of a request's last message; null without any."""

REQUEST_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("attempt", pa.int32()),
        ("text", pa.large_string()),
        ("problem", pa.string()),
        ("row_spans", pa.list_(pa.int32())),
        ("turns", TURNS),
        ("pictures", PICTURES),
    ]
)


ANSWER = "answer"
"""The column of an answer's typed values, a struct with a field for each of the output schema's; null in a row whose
answer does not keep to it. Inside it, their names cannot clash with the other columns'."""


def outcome_schema(
    task: str,
    dimensions: int | None = None,
    answer_fields: Sequence[pa.Field] = (),
    chunks: pa.DataType | None = None,
) -> pa.Schema:
    """The schema of outcome batches.

    Args:
        task: ``generate`` or ``embed``.
        dimensions: length of the vectors, which are ``float32`` here whatever type is stored.
        answer_fields: of the output schema.
        chunks: type of the column of a document's chunks, where documents are cut into them.
    """
    common = [("row", pa.int64()), ("error_type", pa.string()), ("error", pa.string()), ("prompt_tokens", pa.int32())]
    if task == "embed":
        columns = [("embedding", pa.list_(pa.float32(), dimensions or 1)), (TRUNCATED, pa.bool_())]
        return pa.schema([*common, *columns, *([(CHUNKS, chunks)] if chunks is not None else [])])
    return pa.schema(
        [
            *common,
            ("response", pa.string()),
            ("finish_reason", pa.string()),
            ("completion_tokens", pa.int32()),
            ("confidence", pa.float64()),
            ("cached_tokens", pa.int32()),
            ("mean_logprob", pa.float64()),
            ("min_logprob", pa.float64()),
            ("responses", pa.list_(pa.string())),
            ("finish_reasons", pa.list_(pa.string())),
            ("mean_logprobs", pa.list_(pa.float64())),
            ("min_logprobs", pa.list_(pa.float64())),
            (REASONING, pa.string()),
            (REASONING_TOKENS, pa.int32()),
            *([(ANSWER, pa.struct(list(answer_fields)))] if answer_fields else []),
        ]
    )


def write_frame(stream: BinaryIO, kind: Frame, payload: bytes | memoryview | pa.Buffer) -> None:
    """Write one frame. The caller flushes, and sees to it that one thread writes at a time."""
    view = memoryview(payload)
    stream.write(HEADER.pack(view.nbytes, kind))
    stream.write(view)


def write_json(stream: BinaryIO, kind: Frame, value: Any) -> None:
    """Write a control frame and flush it."""
    write_frame(stream, kind, json.dumps(value).encode())
    stream.flush()


def write_batch(stream: BinaryIO, kind: Frame, batch: pa.RecordBatch) -> None:
    """Write a record batch and flush it."""
    payload = StreamPieces(batch)
    stream.write(HEADER.pack(payload.size, kind))
    stream.writelines(payload.pieces)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[Frame, bytes] | None:
    """Read one frame; ``None`` when the other side closed the pipe, also in the middle of a frame."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    length, kind = HEADER.unpack(header)
    payload = stream.read(length)
    if len(payload) < length:
        return None
    return Frame(kind), payload


def read_batch(payload: bytes) -> pa.RecordBatch:
    """Decode a record batch without copying it."""
    return pa.ipc.open_stream(pa.py_buffer(payload)).read_next_batch()
