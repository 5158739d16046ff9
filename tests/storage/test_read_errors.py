from __future__ import annotations

import errno
from pathlib import Path

import pyarrow as pa
import pytest

from airflow_mullama.errors import (
    InputChangedError,
    InputNotFoundError,
    InputUnreadableError,
    StorageUnavailableError,
)
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.read_errors import reading


@pytest.mark.parametrize(
    ("error", "expected", "sentence"),
    [
        (OSError(errno.EIO, "Input/output error"), StorageUnavailableError, "cannot be read now"),
        (OSError("AWS Error NETWORK_CONNECTION during GetObject"), StorageUnavailableError, "cannot be read now"),
        (MemoryError("malloc of size 64 failed"), InputUnreadableError, "not enough memory"),
        (OSError("Couldn't deserialize thrift"), InputUnreadableError, "not a readable Parquet file"),
        (pa.ArrowInvalid("Parquet magic bytes not found"), InputUnreadableError, "not a readable Parquet file"),
        (pa.ArrowNotImplementedError("Support for codec 'zstd' not built"), InputUnreadableError, r"PyArrow .* cannot"),
        (PermissionError(errno.EACCES, "denied"), InputUnreadableError, "may not be read by this user"),
        (FileNotFoundError(errno.ENOENT, "gone"), InputNotFoundError, "is not there"),
        (InputNotFoundError("another file"), InputNotFoundError, "another file"),
    ],
)
def test_what_is_wrong_is_said_of_the_right_side(
    tmp_path: Path, error: Exception, expected: type[Exception], sentence: str
) -> None:
    with pytest.raises(expected, match=sentence), reading(local_location(str(tmp_path / "a.parquet"))):
        raise error


def test_a_file_that_was_there_before_has_vanished(tmp_path: Path) -> None:
    with pytest.raises(InputChangedError), reading(local_location(str(tmp_path / "a.parquet")), changed=True):
        raise FileNotFoundError
