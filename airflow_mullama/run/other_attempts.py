"""Another attempt of the same partition at the same time: two DAG runs, or somebody at a shell beside a task.

Both are allowed, and whichever publishes first is right; but what both compute is paid for twice, so that it is said
while it happens, and the one that is behind ends as soon as the other has published.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from airflow_mullama.errors import StageVanishedError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.staging.stage import Chunk, Stage

log = logging.getLogger(__name__)


class OtherAttempts:
    """Notices other attempts by chunks in the stage that were not there when this one began.

    Args:
        stage: of the partition, with what earlier attempts left in it.
        output: of the partition.
        is_published: whether the output is there, made of the same work.
    """

    def __init__(self, stage: Stage, output: Location, is_published: Callable[[], bool]) -> None:
        self._stage = stage
        self._output = output
        self._is_published = is_published
        self._known = set(stage.staged())
        self._noticed = False

    def look(self, chunk: Chunk) -> None:
        """Look before a chunk is written, once for each, on the thread that writes it.

        Raises:
            StageVanishedError: another attempt has published the output.
        """
        rows = (chunk.start, chunk.stop)
        if not self._noticed and rows not in self._known and self._stage.has(chunk):
            self._noticed = True
            log.warning(
                "another attempt computes %s at the same time (it has made rows %d to %d durable): what both compute "
                "is computed twice; stop one of them",
                self._output,
                chunk.start,
                chunk.stop - 1,
            )
        if self._noticed and self._is_published():
            raise StageVanishedError(f"Another attempt has published {self._output}.")
