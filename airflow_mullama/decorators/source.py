"""What a decorated function may return, and how a table becomes a partition that a retry finds again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.storage.filesystems import Location, Resolver
from airflow_mullama.storage.links import refuse_link
from airflow_mullama.storage.places import SOURCE_FOLDER, place_of
from airflow_mullama.storage.staging.commit import discard, publish_file, writing
from airflow_mullama.storage.staging.left_behind import remove_beside

READ_BYTES = 1 << 20


def input_path_of(returned: object, output_path: object, resolver: Resolver) -> str | list[str]:
    """Make an operator's ``input_path`` of what a function returned.

    Args:
        returned: a path or URL, an ``ObjectStoragePath``, a list of these, or a :class:`pyarrow.Table`.
        output_path: the operator's.
        resolver: opens paths and URLs.

    Raises:
        ConfigurationError: it is none of these, or a table has no output of its own.
    """
    if isinstance(returned, pa.Table):
        if not isinstance(output_path, (str, os.PathLike)) or not place_of(os.fspath(output_path)).is_file:
            raise ConfigurationError(
                f"the function returned a table and output_path is {output_path!r}; a table needs an output of its "
                "own: a path that ends in .parquet."
            )
        return write_source(returned, resolver(os.fspath(output_path))).address
    if (path := _path(returned)) is not None:
        return path
    if isinstance(returned, Sequence) and not isinstance(returned, (str, bytes)):
        paths = [_path(one) for one in returned]
        known = [path for path in paths if path is not None]
        if known and len(known) == len(paths):
            return known
    raise ConfigurationError(
        f"the function returned {type(returned).__name__} {str(returned)[:100]!r}; it must return a path or URL, a "
        "list of them, an ObjectStoragePath or a pyarrow.Table."
    )


def _path(value: object) -> str | None:
    from airflow.sdk import ObjectStoragePath

    if isinstance(value, ObjectStoragePath):
        return str(value)  # its connection is part of the text
    if isinstance(value, (str, os.PathLike)) and (text := os.fspath(value)) and isinstance(text, str):
        return text if text.strip() else None
    return None


def write_source(table: pa.Table, output: Location) -> Location:
    """Keep a table's rows beside the output they become, in a folder named after their content.

    A retry whose function returns the same rows finds the file and leaves it as it is, so that the work goes on where
    it stopped. Those of other content are removed: the run they were for is over.

    Args:
        table: the rows.
        output: the Parquet file they become.

    Raises:
        OutputNotWritableError
    """
    folder = source_folder(output)
    refuse_link(output.parent, folder)
    with writing(folder):
        folder.filesystem.create_dir(folder.path, recursive=True)
    with contextlib.ExitStack() as stack:
        # A rename needs the same filesystem; an upload may come from anywhere.
        beside = folder.path if folder.is_local else stack.enter_context(tempfile.TemporaryDirectory())
        temporary = os.path.join(beside, f".{os.getpid()}-{os.urandom(4).hex()}.tmp")
        stack.callback(_remove, temporary)
        with writing(folder):
            pq.write_table(table, temporary)
        source = folder.join(_sha256(temporary), output.name)  # people see the last name
        if source.info().type != pafs.FileType.File:
            publish_file(temporary, source)
    _remove_others(folder, source.parent.name)
    return source


def source_folder(output: Location) -> Location:
    """Where the rows of a table wait that becomes this output."""
    return output.parent.join(SOURCE_FOLDER, output.name)


def remove_source(returned: object, output_path: object, resolver: Resolver) -> None:
    """Remove the rows of a table that a function returned, once their output is published.

    Args:
        returned: by the function; of anything else than a table nothing was kept.
        output_path: the operator's.
        resolver: opens paths and URLs.
    """
    if isinstance(returned, pa.Table) and isinstance(output_path, (str, os.PathLike)):
        output = resolver(os.fspath(output_path))
        remove_beside(output.parent, source_folder(output))


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _remove_others(folder: Location, kept: str) -> None:
    for info in folder.filesystem.get_file_info(pafs.FileSelector(folder.path)):
        if info.type == pafs.FileType.Directory and info.base_name != kept:
            discard(folder.join(info.base_name))
