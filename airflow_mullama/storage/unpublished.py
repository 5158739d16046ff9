"""Outputs that are not published yet: local files that grow while the engine computes, for hours perhaps.

Who writes one holds a lock on it, which the kernel ends with the process. One that nobody holds was left by an attempt
that was killed; the next attempt removes it, so that they do not fill the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

SUFFIX = ".mullama-unpublished"
# A file is made a moment before it is locked.
LEFT_BEHIND_SECONDS = 60.0


def new_name() -> str:
    """A name that nobody else uses."""
    return f"output-{os.getpid()}-{os.urandom(4).hex()}{SUFFIX}"


@contextlib.contextmanager
def unpublished_file(path: str, mode: int) -> Iterator[None]:
    """Make a file and hold it; what is still there at the end is removed.

    Args:
        path: ends in :data:`SUFFIX`.
        mode: of the file, before the umask.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with contextlib.suppress(OSError):  # a filesystem without locks: then nothing is removed there either
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):
            os.unlink(path)


def remove_left_behind(folder: str) -> None:
    """Remove what killed attempts left in a folder."""
    for path in Path(folder).glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if time.time() - os.fstat(handle).st_mtime > LEFT_BEHIND_SECONDS:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            finally:
                os.close(handle)
