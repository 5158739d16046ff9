"""Rows as the batch in which a worker gets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from airflow_mullama.engines.pictures import Picture
from airflow_mullama.jobs.prompts import RequestText, Turn, pictures_of, row_spans_of, turns_of
from airflow_mullama.run.lanes import Item
from airflow_mullama.worker.client import request_batch
from airflow_mullama.worker.protocol import PICTURES, TURNS


def batch_of(items: Sequence[Item], problems: Mapping[int, str] | None = None) -> pa.RecordBatch:
    """A batch to :meth:`airflow_mullama.worker.client.Worker.send`.

    Args:
        items: rows, each with the number of its attempt and its rendered request.
        problems: by row, what was wrong with its last answer.
    """
    rows, attempts, texts = zip(*items, strict=True)
    problems = problems or {}
    return request_batch(
        pa.array(rows, pa.int64()),
        pa.array(attempts, pa.int32()),
        pa.array(texts, pa.large_string()),
        pa.array(map(problems.get, rows), pa.string()) if problems else None,
        *_parts(texts),
    )


def _parts(texts: Sequence[str]) -> tuple[pa.Array | None, pa.Array | None, pa.Array | None]:
    """The columns of what requests know of their parts; ``None`` where none of them does."""
    if RequestText not in set(map(type, texts)):
        return None, None, None
    turns = list(map(turns_of, texts))
    pictures = list(map(_pictures, texts))
    return (
        pa.array(map(row_spans_of, texts), pa.list_(pa.int32()), size=len(texts)),
        None if turns.count(None) == len(turns) else pa.array(map(_sent, turns), TURNS),
        None if pictures.count(None) == len(pictures) else pa.array(pictures, PICTURES),
    )


def _sent(turns: Sequence[Turn] | None) -> list[dict[str, Any]] | None:
    return None if turns is None else [{"role": role, "length": length} for role, length in turns]


def _pictures(text: str) -> list[dict[str, Any]] | None:
    pictures = [picture for picture in pictures_of(text) if isinstance(picture, Picture)]
    return [{"media_type": picture.media_type, "data": picture.data} for picture in pictures] or None
