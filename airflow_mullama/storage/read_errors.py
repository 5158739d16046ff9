"""What Arrow and filesystems say of a file that cannot be read, as an error that blames the right side."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from airflow_mullama.errors import (
    InputChangedError,
    InputNotFoundError,
    InputUnreadableError,
    MullamaError,
    StorageUnavailableError,
)
from airflow_mullama.storage.batch_rows import HeavyPageError
from airflow_mullama.storage.filesystems import Location

# Arrow raises one kind of error for what a store, a file and Arrow itself cannot do.
STORE_SPEAKS = re.compile(r"AWS Error|curlCode|google::cloud|Azure|HTTP status|timed out")
ENCRYPTION_SPEAKS = re.compile(r"encrypt|decrypt", re.IGNORECASE)
UNSUPPORTED_SPEAKS = re.compile(
    # The last: of a list of fixed size that is null, which older versions cannot read.
    r"not supported|not built|not (yet )?implemented|unsupported|Expected all lists to be of size",
    re.IGNORECASE,
)


@contextmanager
def reading(location: Location, *, changed: bool = False, format_name: str = "Parquet") -> Iterator[None]:
    """Turn what is raised while an input file is read into one sentence.

    Args:
        location: of the file.
        changed: a file that is not there was there before.
        format_name: what the file should be.

    Raises:
        InputNotFoundError, InputChangedError, InputUnreadableError: the file.
        StorageUnavailableError: the store or the disk does not give it out now.
    """
    try:
        yield
    except MullamaError:
        raise
    except FileNotFoundError as error:
        if changed:
            raise InputChangedError(f"The input file {location.url!r} vanished while it was read.") from error
        raise InputNotFoundError(f"The input file {location.url!r} is not there.") from error
    except PermissionError as error:
        raise InputUnreadableError(f"The input file {location.url!r} may not be read by this user: {error}.") from error
    except HeavyPageError as error:
        raise InputUnreadableError(f"The input file {location.url!r} cannot be read: {error}.") from error
    except MemoryError as error:
        raise InputUnreadableError(f"There is not enough memory to read the input file {location.url!r}.") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        if getattr(error, "errno", None) is not None or STORE_SPEAKS.search(reason):
            raise StorageUnavailableError(f"The input file {location.url!r} cannot be read now: {reason}.") from error
        raise InputUnreadableError(
            f"The input file {location.url!r} {_unreadable_because(error, reason, format_name)}"
        ) from error


def _unreadable_because(error: Exception, reason: str, format_name: str) -> str:
    if format_name != "Parquet":
        return f"is not a readable {format_name} file: {reason}; write it again, or take it out of the input."
    if ENCRYPTION_SPEAKS.search(reason):
        return "is encrypted, and this package has no keys; decrypt it first, or take it out of the input."
    if isinstance(error, NotImplementedError) or UNSUPPORTED_SPEAKS.search(reason):
        return (
            f"is Parquet that PyArrow {pa.__version__} cannot read: {reason}; write it again without that, or take it "
            "out of the input."
        )
    return f"is not a readable Parquet file: {reason}; write it again, or take it out of the input."
