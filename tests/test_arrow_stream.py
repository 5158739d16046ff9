from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from airflow_mullama.arrow_stream import StreamPieces


def vectors(rows: int) -> pa.RecordBatch:
    numbers = pa.array(np.arange(rows * 384, dtype=np.float32))
    names = pa.array([f"row {row}" for row in range(rows)]).dictionary_encode()
    return pa.record_batch({"vector": pa.FixedSizeListArray.from_arrays(numbers, 384), "name": names})


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_the_pieces_are_a_stream_that_reads_back(compression: str | None) -> None:
    batch = vectors(50)
    schema = batch.schema.with_metadata({"whose": "ours"})
    written = StreamPieces(batch.slice(3, 20), schema, compression)
    content = b"".join(written.pieces)
    table = pa.ipc.open_stream(content).read_all()
    assert written.size == len(content)
    assert table.schema.metadata == {b"whose": b"ours"}
    assert table.cast(batch.schema).to_batches() == [batch.slice(3, 20)]


def test_heavy_buffers_are_those_of_the_batch() -> None:
    batch = vectors(50)
    numbers = batch.column("vector").values.buffers()[1]
    heaviest = max(StreamPieces(batch).pieces, key=len)
    assert pa.py_buffer(heaviest).address == numbers.address
