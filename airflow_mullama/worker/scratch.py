"""A folder of a worker's own in the temporary directory, for the socket that its engine listens on.

Whoever has one holds a lock on it, which the kernel releases with the process. One that nobody holds was left by a task
that was killed together with its worker; the next worker on the machine removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import sys
import tempfile

from airflow_mullama.errors import StorageUnavailableError

PREFIX = "airflow-mullama-worker-"
# What a system takes for a socket's path, in bytes; the rest is for the folder's name, which ends with eight characters
# that make it unique, the socket's, and a "/" before each.
LONGEST_SOCKET_PATH = 107 if sys.platform == "linux" else 103
LONGEST_SOCKET_NAME = 12
LONGEST_DIRECTORY = LONGEST_SOCKET_PATH - len(PREFIX) - 8 - LONGEST_SOCKET_NAME - 2
# A socket takes no room, so that it may lie here where the place for temporary files has too long a name.
SHORT_DIRECTORY = "/tmp"  # noqa: S108 - the folder in it is of mode 0700 and has a name that nobody can foresee


class ScratchFolder:
    """A new folder that only this user may enter (mode 0700).

    Raises:
        StorageUnavailableError: there is no place for one.

    Attributes:
        path: of the folder.
    """

    def __init__(self) -> None:
        root = _directory()
        _remove_abandoned(root)
        while True:
            try:
                self.path = tempfile.mkdtemp(prefix=PREFIX, dir=root)
            except OSError as error:
                raise StorageUnavailableError(
                    f"The engine's socket finds no place in {root!r} ({error}); set TMPDIR to a directory that this "
                    f"user may write to, with a path of at most {LONGEST_DIRECTORY} bytes."
                ) from error
            # Until it is locked, another worker may take it for abandoned: then there is a next one.
            with contextlib.suppress(FileNotFoundError):
                self._lock: int | None = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                with contextlib.suppress(OSError):  # a filesystem without locks: there nothing is removed either
                    fcntl.flock(self._lock, fcntl.LOCK_EX)
                if os.path.isdir(self.path):
                    return
                self.remove()

    def remove(self) -> None:
        """Remove it with what is in it. May be called again."""
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def _directory() -> str:
    directory = tempfile.gettempdir()
    return directory if len(os.fsencode(directory)) <= LONGEST_DIRECTORY else SHORT_DIRECTORY


def _remove_abandoned(root: str) -> None:
    with contextlib.suppress(OSError):
        for entry in os.scandir(root):
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                _remove_if_abandoned(entry.path)


def _remove_if_abandoned(path: str) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)
