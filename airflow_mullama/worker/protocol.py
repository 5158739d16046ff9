"""What crosses the pipe: framed JSON for control, framed Arrow record batches for rows.

A frame is its payload's length (unsigned 32 bit, little endian), one byte for its kind, the payload. Record batches
travel without their schema, which both sides know.
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import Any, BinaryIO

import pyarrow as pa

from airflow_mullama.rows import TRUNCATED

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
    """worker → parent: a batch of the task's outcome schema."""
    LOG = 6
    """worker → parent: JSON ``{"level": number, "name": logger, "message": text}``."""
    STUCK = 7
    """worker → parent, last: JSON ``{"rows": [...], "shared": [...]}``: rows past their timeout that would not
    end, each in a call of its own, and rows that shared a call, so that one of them may be the guilty one."""
    RUNNING = 8
    """worker → parent: JSON ``{"rows": [...]}``: what an engine that holds the interpreter begins; if SIGALRM ends the
    worker, these rows were beyond their timeout."""


REQUEST_SCHEMA = pa.schema(
    [("row", pa.int64()), ("attempt", pa.int32()), ("text", pa.large_string()), ("problem", pa.string())]
)


def outcome_schema(task: str, dimensions: int | None) -> pa.Schema:
    """The schema of outcome batches. Vectors are ``float32`` here whatever type is stored."""
    common = [("row", pa.int64()), ("error_type", pa.string()), ("error", pa.string()), ("prompt_tokens", pa.int32())]
    if task == "embed":
        return pa.schema([*common, ("embedding", pa.list_(pa.float32(), dimensions or 1)), (TRUNCATED, pa.bool_())])
    return pa.schema(
        [
            *common,
            ("response", pa.string()),
            ("finish_reason", pa.string()),
            ("completion_tokens", pa.int32()),
            ("confidence", pa.float64()),
            ("cached_tokens", pa.int32()),
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
    write_frame(stream, kind, batch.serialize())
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


def read_batch(payload: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """Decode a record batch without copying it."""
    return pa.ipc.read_record_batch(pa.py_buffer(payload), schema)
