"""Record batches as an Arrow IPC stream, in the buffers that Arrow writes from: what is heavy is not copied."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


class StreamPieces:
    """The bytes of a stream, one piece after the other; they keep the batch's memory alive.

    Args:
        rows: what is in the stream.
        schema: of the stream, if it is to have other metadata than the rows' own.
        compression: of the buffers.

    Attributes:
        pieces: in order.
        size: bytes of all of them.
    """

    def __init__(
        self,
        rows: pa.RecordBatch | pa.Table,
        schema: pa.Schema | None = None,
        compression: str | None = None,
    ) -> None:
        self.pieces: list[memoryview] = []
        self.size = 0
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_stream(pa.PythonFile(self, "w"), schema or rows.schema, options=options) as writer:
            writer.write(rows)

    # -- what Arrow asks of a file -----------------------------------------------------------------------------------

    closed = False

    def writable(self) -> bool:
        """Whether it may be written."""
        return True

    def write(self, piece: Any) -> int:
        """One more piece."""
        view = memoryview(piece)
        self.pieces.append(view)
        self.size += view.nbytes
        return view.nbytes

    def flush(self) -> None:
        """Nothing waits anywhere."""
