"""Models on an object store: copied to the cache of this machine, once for each state of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from airflow_mullama.errors import ModelNotFoundError, ModelUnavailableError
from airflow_mullama.models.cached_copies import CachedCopy
from airflow_mullama.models.download import Download, is_whole
from airflow_mullama.storage.filesystems import Location

Stored = tuple[Location, str, pafs.FileInfo]
"""An object, the name of its copy below the folder of copies, and what the store says of it."""


def copied(objects: Sequence[Stored]) -> Path:
    """The folder in the cache that holds copies of objects; those that are there already are not fetched again.

    It is another one for another state of them: sizes and modification times.

    Raises:
        ModelUnavailableError: they cannot be fetched now, or there is no room for them.
    """
    states = "".join(f"{part.address}|{info.size}|{info.mtime_ns}\n" for part, _, info in objects)
    copy = CachedCopy(hashlib.sha256(states.encode()).hexdigest()[:16])
    what = repr(objects[0][0].url)
    try:
        copy.use()
        if any(not is_whole(copy.folder / name, info.size) for _, name, info in objects):
            with copy.fetching(what):
                _fetch([one for one in objects if not is_whole(copy.folder / one[1], one[2].size)], copy, what)
    except OSError as error:
        raise ModelUnavailableError(
            f"The model {what} could not be copied to {str(copy.folder)!r}: {error}."
        ) from error
    return copy.folder


def _fetch(missing: Sequence[Stored], copy: CachedCopy, what: str) -> None:
    downloads = [Download(part, copy.folder / name, info.size or 0, info.mtime_ns) for part, name, info in missing]
    if downloads:
        copy.make_room(sum(one.missing_bytes() for one in downloads), what)
    for one in downloads:
        one.run()


def object_info(location: Location) -> pafs.FileInfo:
    """What a store says of an object.

    Raises:
        ModelUnavailableError: nothing.
        ModelNotFoundError: there is none.
    """
    try:
        info = location.info()
    except (pa.ArrowException, OSError) as error:
        raise ModelUnavailableError(f"The model {location.url!r} cannot be looked up: {error}.") from error
    if info.type != pafs.FileType.File:
        raise ModelNotFoundError(
            f"There is no object at {location.url!r}: check the model's URL and the connection's rights."
        )
    return info


def objects_below(location: Location) -> list[Stored]:
    """All objects of a folder and of folders in it, by name.

    Raises:
        ModelUnavailableError: the store does not list them.
    """
    selector = pafs.FileSelector(location.path, allow_not_found=True, recursive=True)
    try:
        infos = location.filesystem.get_file_info(selector)
    except (pa.ArrowException, OSError) as error:
        raise ModelUnavailableError(f"The model {location.url!r} cannot be looked up: {error}.") from error
    files = {info.path[len(location.path) + 1 :]: info for info in infos if info.type == pafs.FileType.File}
    return [(location.join(name), name, info) for name, info in sorted(files.items())]
