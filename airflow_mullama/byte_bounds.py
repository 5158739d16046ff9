"""What may be in memory at once, in bytes.

Together, with the interpreter and what Arrow itself needs, they keep a task's process under 600 MiB, whatever its rows
weigh. Each is a bound for several rows: one row that weighs more goes through alone.
"""

from __future__ import annotations

MIB = 1 << 20

LARGEST_ROW_BYTES = 64 * MIB
"""The largest row that is asked for, in the columns that its prompt is made of: a larger one has an error."""

LARGEST_PICTURE_BYTES = 20 * MIB
"""The largest picture that is asked about; all of a row's together are at most :data:`LARGEST_ROW_BYTES`."""

READ_BATCH_BYTES = 16 * MIB
"""Decoded input rows that are read at once."""

LARGEST_PAGE_BYTES = 512 * MIB
"""The largest page of a Parquet file that is read: a page is unpacked whole, by every reader."""

READ_BUFFERS_BYTES = 64 * MIB
"""The buffers through which the columns of a file are read, all of them together."""

READ_AHEAD_BYTES = 16 * MIB
"""Rendered requests that wait until the window takes them."""

WINDOW_BYTES = 32 * MIB
"""Requests in the window: waiting to be sent, computed, or to be asked again."""

FRAME_BYTES = 8 * MIB
"""Outcomes that a worker sends at once."""

ROW_GROUP_BYTES = 32 * MIB
"""Rows that are written to the output at once."""

OPEN_CHUNKS_BYTES = 32 * MIB
"""Outcomes of chunks that are not whole yet: beyond it, or half of it in one chunk, a part is made durable."""

PREVIOUS_OUTPUT_BYTES = 64 * MIB
"""Outcomes of a previous output that are looked up row by row."""

DURABLE_CHUNKS_BYTES = 32 * MIB
"""Outcomes that are durable and wait to be written to the output; beyond it they are read from the stage again."""
