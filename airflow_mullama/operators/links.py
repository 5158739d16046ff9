"""The links from a task in Airflow's UI: to what it wrote, and to the tab that shows its numbers."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

from airflow_mullama.compat import setting
from airflow_mullama.plugin.routes import task_tab
from airflow_mullama.storage.places import Place, place_of

log = logging.getLogger(__name__)


class MullamaOutputLink(BaseOperatorLink):
    """Leads to the output: to ``[mullama] output_link`` where that is set, else to the store's own console."""

    name = "Output"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Called in the task when it has ended; empty where nothing was written."""
        from airflow_mullama.operators.assets import partitions_with_output

        manifest = getattr(operator, "manifest", None)
        return output_link(manifest.output_path) if manifest is not None and partitions_with_output(manifest) else ""


class MullamaTabLink(BaseOperatorLink):
    """Leads to the tab *Mullama* of the task instance."""

    name = "Mullama"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Called in the task when it has ended; relative, as a worker need not know where the UI is."""
        return task_tab(ti_key.dag_id, ti_key.run_id, ti_key.task_id, ti_key.map_index)


def output_link(path: str) -> str:
    """The address of an output for people.

    Args:
        path: of a file, or of the folder that several have in common.

    Returns:
        Empty for a store whose console has no address that follows from the path.
    """
    place = place_of(path)
    if template := setting("output_link", ""):
        values = {"url": place.url, "scheme": place.scheme, "bucket": place.bucket, "path": place.path.lstrip("/")}
        try:
            return template.format(**{name: quote(value, safe="/=") for name, value in values.items()})
        except (KeyError, IndexError, ValueError) as error:
            log.warning(
                "[mullama] output_link is %r, which has no meaning (%r): it may have {url}, {scheme}, {bucket} and "
                "{path}",
                template,
                error,
            )
    return _console(place)


def _console(place: Place) -> str:
    path = quote(place.path, safe="/=")
    if place.scheme == "file":
        return f"file://{path}"
    if place.scheme == "s3":
        kind = "object" if place.is_file else "buckets"
        prefix = quote(place.path if place.is_file else f"{place.path}/", safe="")
        return f"https://s3.console.aws.amazon.com/s3/{kind}/{place.bucket}?prefix={prefix}"
    if place.scheme == "gs":
        details = "_details/" if place.is_file else ""
        return f"https://console.cloud.google.com/storage/browser/{details}{place.bucket}/{path}"
    return ""
