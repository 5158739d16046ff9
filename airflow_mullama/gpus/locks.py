"""Lock files that the tasks of a machine share, whoever they run as.

A lock is ``flock`` on an open file: the kernel releases it when the last process that has the file open ends, however
that happens. The directory may be writable by everybody, so no name in it is trusted: links are not followed, and
nothing is written into a file that has a second name elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import stat
import tempfile
import time
from pathlib import Path

from airflow_mullama.errors import ConfigurationError

DIRECTORY_VARIABLE = "AIRFLOW_MULLAMA_GPU_LOCKS"
# Not $TMPDIR: batch systems give each job its own, and tasks that do not share locks would share GPUs.
DEFAULT_DIRECTORY = "/tmp/airflow-mullama-gpus"  # noqa: S108 - see above and lock_directory
SHARED_DIRECTORY_MODE = 0o1777
SHARED_FILE_MODE = 0o666
HOLDER_BYTES = 100
PATIENCE_SECONDS = 1.0

_HOLDER = re.compile(r"(\d{1,10}) ([\w.-]{1,64})\n?", re.ASCII)


def lock_directory() -> Path:
    """The directory for the lock files, made if it is not there.

    Raises:
        ConfigurationError: it cannot be used.
    """
    named = os.environ.get(DIRECTORY_VARIABLE)
    path = named or DEFAULT_DIRECTORY
    try:
        _make_shared_directory(path)
        # A link that an administrator names is intended; one that lies where the default goes is somebody's trick.
        mode = (os.stat if named else os.lstat)(path).st_mode
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(f"{path!r} is no directory")
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise PermissionError(f"everybody may remove files from {path!r}: chmod +t is missing")
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(f"this user may not write to {path!r}")
    except OSError as error:
        raise ConfigurationError(
            f"The directory for GPU locks cannot be used ({error}); set {DIRECTORY_VARIABLE} to one that every task of "
            "this machine may write to."
        ) from error
    return Path(path)


def _make_shared_directory(path: str) -> None:
    if os.path.lexists(path):
        return
    # Under another name first: the umask cuts the mode that mkdir is given, and others must not find it so.
    fresh = tempfile.mkdtemp(prefix=".airflow-mullama-", dir=os.path.dirname(os.path.abspath(path)))
    os.chmod(fresh, SHARED_DIRECTORY_MODE)
    try:
        os.rename(fresh, path)
    except OSError:  # another task was faster; what lies there is looked at next
        os.rmdir(fresh)


def open_lock_file(path: Path) -> int:
    """Open a lock file, made if it is not there; a descriptor that child processes do not inherit.

    Raises:
        ConfigurationError: something else has its name.
    """
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    patient_until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            try:
                # Without O_CREAT: with it Linux may refuse another user's file in a directory for all.
                descriptor = os.open(path, os.O_RDWR | flags)
            except PermissionError:
                descriptor = os.open(path, os.O_RDONLY | flags)  # enough for a lock; who holds it stays unsaid
        except FileNotFoundError:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, SHARED_FILE_MODE)
            except FileExistsError:
                continue
            os.fchmod(descriptor, SHARED_FILE_MODE)
        except OSError as error:
            if isinstance(error, PermissionError) and time.monotonic() < patient_until:
                time.sleep(0.01)  # another user has just made it, and the umask is not yet undone
                continue
            raise _not_a_lock_file(path) from error
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
            return descriptor
        os.close(descriptor)
        if found.st_nlink:
            raise _not_a_lock_file(path)


def _not_a_lock_file(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{str(path)!r} is no lock file of this package; remove it, or set {DIRECTORY_VARIABLE} to another directory."
    )


def try_lock(descriptor: int) -> bool:
    """Lock an open file, unless somebody has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_lock_path(path: Path) -> int | None:
    """Open and lock a file: its descriptor, or ``None`` if somebody has the lock."""
    while True:
        descriptor = open_lock_file(path)
        if not try_lock(descriptor):
            os.close(descriptor)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return descriptor
        os.close(descriptor)  # removed in between: whoever holds it holds nothing


def write_holder(descriptor: int) -> None:
    """Say in a lock file who has it, for people."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()[:64]}\n".encode(), 0)


def read_holder(path: Path) -> str | None:
    """Who claims to hold a lock: ``pid 71``, or ``pid 71 on another-host``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = _HOLDER.fullmatch(os.pread(descriptor, HOLDER_BYTES, 0).decode("ascii", "replace"))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if found is None:
        return None
    return f"pid {found[1]}" if found[2] == socket.gethostname()[:64] else f"pid {found[1]} on {found[2]}"
