"""What was accepted last, kept as JSON: the evaluation that a gate let pass, the shares that a summary found right."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa

from airflow_mullama.errors import InputUnreadableError, StorageUnavailableError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.parquet.output import output_exists
from airflow_mullama.storage.staging.commit import publish_bytes

Accepted = TypeVar("Accepted")

# The longest have some hundred kilobytes: shares of many labels.
MOST_BYTES = 64 << 20


def read_accepted_file(
    location: Location, parse: Callable[[Any], Accepted], *, what: str, keeper: str
) -> Accepted | None:
    """What the file holds; ``None`` before anything was accepted.

    Args:
        location: of the file.
        parse: what it should be, of JSON's values; raises as Python does if it is something else.
        what, keeper: for people: what it should hold, and who keeps it there.

    Raises:
        InputUnreadableError: the file holds something else.
        StorageUnavailableError: it cannot be read.
    """
    if not output_exists(location):
        return None
    try:
        with location.filesystem.open_input_stream(location.path) as stream:
            return parse(json.loads(_content(stream)))
    except (OSError, pa.ArrowException) as error:
        raise StorageUnavailableError(f"{location.url!r} cannot be read: {error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputUnreadableError(
            f"{location.url!r} holds no {what} ({error!r}): give the {keeper} a file of its own, or remove this one."
        ) from error


def _content(stream: pa.NativeFile) -> bytes:
    content = bytes(stream.read(MOST_BYTES + 1))
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    return content


def write_accepted_file(location: Location, accepted: Any) -> None:
    """Keep it, in the place of what was accepted before. Keys keep their order: the first answer is that of a gate.

    Raises:
        OutputNotWritableError: it cannot be written.
    """
    publish_bytes(location, json.dumps(accepted, indent=1).encode())
