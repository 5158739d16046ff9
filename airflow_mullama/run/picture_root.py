"""Where a partition's pictures lie whose columns name their files."""

from __future__ import annotations

import os
from dataclasses import replace

import pyarrow as pa

from airflow_mullama.byte_bounds import LARGEST_PICTURE_BYTES
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.jobs.job import Job
from airflow_mullama.jobs.pictures import PictureTemplate
from airflow_mullama.jobs.prompts import RequestTemplate
from airflow_mullama.storage.filesystems import Location, local_location
from airflow_mullama.storage.partitions import Partition
from airflow_mullama.storage.picture_files import PictureFiles
from airflow_mullama.storage.places import SOURCE_FOLDER


def template_with_files(
    job: Job, partition: Partition, schema: pa.Schema, image_root: Location | None
) -> RequestTemplate:
    """The job's template, which reads the files that a partition's rows name.

    Args:
        job: what to do.
        partition: whose folder the paths begin at, if nothing else is said.
        schema: of the input.
        image_root: the folder that they begin at instead.

    Raises:
        ConfigurationError: nothing says where they begin.
        InputNotFoundError: the folder is not there.
    """
    template = job.template
    if not isinstance(template, PictureTemplate) or not template.names_files(schema):
        return template
    # Of a table that a function returned, the rows lie in a folder of our own.
    is_table = partition.table is not None or SOURCE_FOLDER in partition.input.path.split("/")
    if image_root is None and is_table:
        raise ConfigurationError(
            f"image_columns name files, and the input {partition.input.url!r} is a table, which has no folder for "
            "them: say where the paths begin, with image_root."
        )
    return replace(template, files=PictureFiles(image_root or _folder(partition), LARGEST_PICTURE_BYTES))


def _folder(partition: Partition) -> Location:
    place = partition.input
    is_file = len(partition.files) == 1 and partition.files[0].path == place.path
    if place.is_local:
        return local_location(os.path.dirname(place.path) if is_file else place.path)  # absolute, for people too
    return place.parent if is_file else place
