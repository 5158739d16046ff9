"""What runs leave beside an output: removed when it is published, and by a later run if that never came.

Stages and the sources of decorated tasks lie in folders ``_mullama_…`` beside the output, each output's own in a folder
of its name. An attempt that fails leaves its own for the next one. If there is no next one, any run that publishes
in the same directory removes what nobody has written to for thirty days.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path

from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.links import link_on_the_way
from airflow_mullama.storage.staging.commit import discard

log = logging.getLogger(__name__)

ABANDONED_DAYS = 30
# Of a thousand tasks that publish at once into one directory, none is to look at all the others' folders.
MOST_LOOKED_AT = 200


def remove_beside(output_folder: Location, folder: Location) -> None:
    """Remove an output's own folder, and those of other outputs there that were abandoned.

    Args:
        output_folder: the output's directory.
        folder: ``_mullama_…/<name of the output>`` in it.
    """
    if (link := link_on_the_way(output_folder, folder)) is not None:
        log.warning("%s is a link: what it leads to is left alone", link)
        return
    discard(folder)
    if folder.is_local:
        _remove_abandoned(folder.parent)
        # Only if it is empty, and that is decided by the system: another output may be using it.
        with contextlib.suppress(OSError):
            os.rmdir(folder.parent.path)


def _remove_abandoned(folders: Location) -> None:
    # A chunk that becomes durable changes the time of its folder, and is so itself within minutes.
    before = time.time() - ABANDONED_DAYS * 86_400
    with contextlib.suppress(OSError), os.scandir(folders.path) as found:
        for entry, _ in zip(found, range(MOST_LOOKED_AT), strict=False):
            if entry.is_dir(follow_symlinks=False) and _last_change(Path(entry.path)) < before:
                log.info("removing %s: nobody has written to it for %d days", entry.path, ABANDONED_DAYS)
                discard(folders.join(entry.name))


def _last_change(folder: Path) -> float:
    """When a folder, or one directly in it, was written to last."""
    times = [folder.lstat().st_mtime]
    times += [below.lstat().st_mtime for below in folder.iterdir()]
    return max(times)
