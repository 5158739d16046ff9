"""A file of an object store, read in few requests, side by side, before whoever reads it asks.

Each request to a store takes tens of milliseconds, however little it asks for. Parquet asks for many little things:
the footer, the header of each page, a buffer of each column, again and again. Here the end of the file is fetched when
it is opened, and the parts that are said to be needed are fetched at once; what nobody announced is fetched when it is
read.
"""

from __future__ import annotations

import bisect
import contextlib
import datetime
import io
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future

import pyarrow as pa

from airflow_mullama.byte_bounds import MIB
from airflow_mullama.storage.filesystems import Location

# The footer is there; what is not larger is read in one request.
TAIL_BYTES = MIB // 4
# Large enough that the latency does not count, small enough that several are fetched side by side.
REQUEST_BYTES = 4 * MIB
# Closer parts are fetched as one.
GAP_BYTES = 64 << 10
SMALLEST_WINDOW_BYTES = 64 << 10

# A wide table has thousands of columns, each read from its own place, and a container is granted so many threads.
FETCHED_AT_ONCE = 16

Range = tuple[int, int]
"""The bytes ``[start, stop)`` of a file."""


class _Fetches:
    """Fetches parts of a file on a few threads, which no end of the process waits for; what is asked first, first.

    Args:
        source: the file; it is closed with this, once nothing is read from it any more.
    """

    def __init__(self, source: pa.NativeFile) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[bytes], int, int]] = deque()
        self._threads = 0
        self._closed = False

    def begin(self, size: int, offset: int) -> Future[bytes]:
        """Fetch so many bytes from an offset on."""
        future: Future[bytes] = Future()
        with self._lock:
            self._waiting.append((future, size, offset))
            if self._threads == FETCHED_AT_ONCE:
                return future
            self._threads += 1
        threading.Thread(target=self._run, daemon=True, name="mullama-fetch").start()
        return future

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    is_last = self._closed and not self._threads
                    break
                future, size, offset = self._waiting.popleft()
            try:
                future.set_result(self._source.read_at(size, offset))
            except BaseException as error:  # noqa: BLE001 - it is raised where the bytes are asked for
                future.set_exception(error)
        if is_last:
            self._source.close()

    def close(self) -> None:
        """Fetch nothing more. It waits for nobody; whoever waits for what was not begun gets an OSError."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            is_idle = not self._threads
        for future, _, _ in waiting:
            future.set_exception(OSError("the file was closed"))
        if is_idle:
            self._source.close()


class _Span:
    """Bytes ``[start, stop)`` that are fetched in segments.

    Args:
        fetches: of the file.
        segment: bytes of a request.
        window: whether it is read from its beginning to its end, so that only the segment that is read and the next one
            are held; else all of them are.
    """

    def __init__(self, fetches: _Fetches, span: Range, segment: int, *, window: bool) -> None:
        self._fetches = fetches
        self.start, self.stop = span
        self._segment = segment
        self._window = window
        self._fetched: dict[int, Future[bytes]] = {}
        for number in range(1 if window else self._count):
            self._fetch(number)

    @property
    def _count(self) -> int:
        return -(-(self.stop - self.start) // self._segment)

    def read(self, offset: int, stop: int) -> bytes:
        """Bytes from an offset in it, at most up to ``stop``, and not beyond the segment that it is in."""
        number = (offset - self.start) // self._segment
        if self._window:
            for gone in [other for other in self._fetched if other not in (number, number + 1)]:
                del self._fetched[gone]
            if number + 1 < self._count:
                self._fetch(number + 1)
        begins = self.start + number * self._segment
        return self._fetch(number).result()[offset - begins : stop - begins]

    def _fetch(self, number: int) -> Future[bytes]:
        if number not in self._fetched:
            begins = self.start + number * self._segment
            size = min(self._segment, self.stop - begins)
            self._fetched[number] = self._fetches.begin(size, begins)
        return self._fetched[number]


class StoredFile(io.RawIOBase):
    """An open file of a store, for :class:`pyarrow.PythonFile`. One thread reads it at a time.

    Args:
        location: of the file.

    Raises:
        OSError, pyarrow.ArrowException: here and while reading, what Arrow says of the file.
    """

    def __init__(self, location: Location) -> None:
        super().__init__()
        self._source: pa.NativeFile = location.filesystem.open_input_file(location.path)
        self._size = self._source.size()
        self._fetches = _Fetches(self._source)
        self._position = 0
        tail = (max(0, self._size - TAIL_BYTES), self._size)
        self._tail = [_Span(self._fetches, tail, TAIL_BYTES, window=False)]
        self._announced: dict[int, list[_Span]] = {}
        self._spans: list[_Span] = []
        self._starts: list[int] = []
        self._gather()

    @property
    def size(self) -> int:
        """Its bytes."""
        return int(self._size)

    @property
    def state(self) -> tuple[int, int] | None:
        """Its size and when it was changed last, in nanoseconds since 1970; ``None`` if the store did not say that."""
        with contextlib.suppress(pa.ArrowException, OSError, ValueError):
            changed = (self._source.metadata() or {}).get("Last-Modified", b"").decode()
            at = datetime.datetime.strptime(changed, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
            return self._size, int(at.timestamp()) * 1_000_000_000
        return None

    def hold(self, key: int, parts: Iterable[Range]) -> None:
        """Fetch some parts of the file now, and hold them until they are released.

        Args:
            key: by which they are released.
            parts: that do not overlap with others that are announced.
        """
        if key not in self._announced:
            spans = [
                _Span(self._fetches, span, REQUEST_BYTES, window=False) for span in _joined(self._unfetched(parts))
            ]
            self._announced[key] = spans
            self._gather()

    def follow(self, key: int, parts: Iterable[Range], held_bytes: int) -> None:
        """Fetch parts of the file a little ahead of whoever reads each from its beginning to its end.

        Args:
            key: by which they are released.
            parts: that do not overlap with others that are announced.
            held_bytes: of all of them together, at once.
        """
        if key not in self._announced:
            unfetched = self._unfetched(parts)
            segment = min(REQUEST_BYTES, max(SMALLEST_WINDOW_BYTES, held_bytes // (2 * max(1, len(unfetched)))))
            self._announced[key] = [_Span(self._fetches, span, segment, window=True) for span in unfetched]
            self._gather()

    def release(self, key: int) -> None:
        """Hold parts no longer."""
        self._announced.pop(key, None)
        self._gather()

    def _unfetched(self, parts: Iterable[Range]) -> list[Range]:
        end = self._tail[0].start
        return [(start, min(stop, end)) for start, stop in parts if 0 <= start < min(stop, end)]

    def _gather(self) -> None:
        spans = [span for announced in self._announced.values() for span in announced] + self._tail
        self._spans = sorted(spans, key=lambda span: span.start)
        self._starts = [span.start for span in self._spans]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._size, self._position + size)
        parts = []
        while self._position < stop:
            parts.append(self._part(self._position, stop))
            self._position += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, offset: int, stop: int) -> bytes:
        place = bisect.bisect_right(self._starts, offset)
        if place and offset < self._spans[place - 1].stop:
            part = self._spans[place - 1].read(offset, stop)
        else:
            part = bytes(self._source.read_at(min([stop, *self._starts[place : place + 1]]) - offset, offset))
        if not part:
            raise OSError(f"the file ends at {offset} of {self._size} bytes")
        return part

    def close(self) -> None:
        if not self.closed:
            self._fetches.close()
            self._announced, self._spans, self._starts = {}, [], []
        super().close()


def _joined(parts: Iterable[Range]) -> list[Range]:
    joined: list[Range] = []
    for start, stop in sorted(parts):
        if joined and start - joined[-1][1] <= GAP_BYTES:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
