"""The bytes of a text file, unpacked, and their hash."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from airflow_mullama.byte_bounds import MIB
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.stored_file import StoredFile

KEPT_BYTES = 8
# Of a store, so much is fetched ahead of the reader.
AHEAD_BYTES = 8 * MIB
# A store that does not answer has its client's limits; closing does not wait for them.
CLOSE_SECONDS = 10.0
# For a reader that is still there to ask once more.
END_SECONDS = 0.2


class TextStream(io.RawIOBase):
    """A text file that is read once from its beginning to its end; ``.gz`` is unpacked.

    A line break is added at the end, where a file may lack one; an empty line is nobody's row.

    Args:
        location: of the file.
        observe: told of the unpacked bytes, in order.

    Attributes:
        last_bytes: the end of what was read, without the added line break.

    Raises:
        OSError, pyarrow.ArrowException: here and while reading, what Arrow says of the file.
    """

    def __init__(self, location: Location, observe: Callable[[bytes], None] = lambda content: None) -> None:
        super().__init__()
        self._observe = observe
        self._hash = hashlib.sha256()
        self._ended = False
        self._reading = threading.Lock()
        self._end_is_told = threading.Event()
        self.last_bytes = b""
        self._source = _opened(location, "gzip" if location.name.lower().endswith(".gz") else None)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._reading:
            filled = self._fill(memoryview(buffer).cast("B"))
            if not filled:
                self._end_is_told.set()
            return filled

    def _fill(self, wanted: memoryview) -> int:
        filled = 0
        # Filled to the end: Arrow takes what one read gives for a block, and unpacking gives less than is asked for.
        while filled < len(wanted) and not self._ended:
            content = self._source.read(len(wanted) - filled)
            self._hash.update(content)
            self._observe(content)
            self.last_bytes = (self.last_bytes + content[-KEPT_BYTES:])[-KEPT_BYTES:]
            self._ended = not content
            content = content or b"\n"
            wanted[filled : filled + len(content)] = content
            filled += len(content)
        return filled

    def close(self) -> None:
        # Arrow's CSV reader reads ahead on a thread of its own, also after it has given up: a process that ends with
        # that thread inside of Python is aborted, or hangs. Told of an end, the thread comes no more.
        self._ended = True
        if self._reading.acquire(timeout=CLOSE_SECONDS):
            self._reading.release()
            self._end_is_told.wait(END_SECONDS)
        if not self.closed:
            self._source.close()
        super().close()

    def digest(self) -> str:
        """SHA-256 of the unpacked bytes that were read, in hexadecimal."""
        return self._hash.hexdigest()


def _opened(location: Location, compression: str | None) -> pa.NativeFile:
    if location.is_local:
        return location.filesystem.open_input_stream(location.path, compression=compression)
    stored = StoredFile(location)
    stored.follow(0, [(0, stored.size)], AHEAD_BYTES)
    file = pa.PythonFile(stored, mode="r")
    return file if compression is None else pa.CompressedInputStream(file, compression)
