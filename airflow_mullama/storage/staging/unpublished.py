"""Files that are not published yet: outputs that grow while the engine computes, perhaps for hours.

Whoever writes one holds a lock on it, which the kernel releases with the process. One that nobody holds was left by an
attempt that was killed; the next attempt removes it, so that they do not fill the disk. Only files of this host are
removed: what a lock says of another host's depends on the filesystem.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".mullama-unpublished"
# What a file is called until it is locked.
UNLOCKED_SUFFIX = ".mullama-new"


def new_name() -> str:
    """A name that nobody else uses."""
    return f"{_prefix()}{os.getpid()}-{os.urandom(4).hex()}{SUFFIX}"


def _prefix() -> str:
    host = re.sub(r"[^A-Za-z0-9.-]", "_", platform.node()) or "localhost"
    return f"output-{host}-"


@contextlib.contextmanager
def unpublished_file(path: str, mode: int) -> Iterator[BinaryIO]:
    """Make a file and hold it; what is still there at the end is removed.

    Args:
        path: ends in :data:`SUFFIX`.
        mode: of the file, before the umask.

    Returns:
        The file, to be written: some filesystems let nobody else write what is locked.
    """
    unlocked = path.removesuffix(SUFFIX) + UNLOCKED_SUFFIX
    handle = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as file:
        try:
            with contextlib.suppress(OSError):  # a filesystem without locks: then nothing is removed there either
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(unlocked, path)
            yield file
        finally:
            for name in (unlocked, path):
                with contextlib.suppress(OSError):
                    os.unlink(name)


def remove_left_behind(folder: str) -> None:
    """Remove what killed attempts on this host left in a folder."""
    for path in Path(folder).glob(f"{glob.escape(_prefix())}*{SUFFIX}"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(handle)
