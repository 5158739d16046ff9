"""What a partition's path says of it: the table it belongs to, its place in that table, the store it lies in.

Nothing is looked up: these are the names that catalogues, schedulers and people know a partition by.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

HIVE_SEGMENT = re.compile(r"^[^/=]+=[^/]*$")
FILE_SUFFIXES = (".parquet", ".pq", ".parq")
# Beside an output: the rows that a decorated function returned as a table, in a folder of the output's name.
SOURCE_FOLDER = "_mullama_source"
# Schemes whose URL may name an Airflow connection before the bucket; those of Azure have the container there.
BUCKET_SCHEMES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


@dataclass(frozen=True)
class Place:
    """A path or URL, taken apart.

    Args:
        scheme: ``file``, ``s3``, ``gs`` or another store's.
        bucket: with the account, where the store has any; empty for local files.
        path: local paths begin with a slash, objects' do not.
    """

    scheme: str
    bucket: str
    path: str

    @property
    def url(self) -> str:
        """Without an Airflow connection."""
        return f"{self.scheme}://{self.bucket}{'/' if self.bucket else ''}{self.path}"

    @property
    def is_file(self) -> bool:
        """Whether the name is a Parquet file's."""
        return self.path.lower().endswith(FILE_SUFFIXES)


def place_of(path: str) -> Place:
    """Take a path or URL apart."""
    if "://" not in path:
        return Place("file", "", path.rstrip("/") or "/")
    parts = urlsplit(path)
    if parts.scheme == "file":
        return Place("file", "", parts.path.rstrip("/") or "/")
    if parts.scheme in BUCKET_SCHEMES:
        bucket = parts.netloc.rpartition("@")[2]
        return Place(BUCKET_SCHEMES[parts.scheme], bucket, parts.path.strip("/"))
    return Place(parts.scheme, parts.netloc, parts.path.strip("/"))


def partition_values(path: str) -> dict[str, str]:
    """Keys and values of a partition's hive segments (``ds=2026-11-01``), in their order, as before escaping."""
    segments = place_of(path).path.split("/")
    first, end = _hive_run(segments)
    return {key: unquote(value) for key, _, value in (segment.partition("=") for segment in segments[first:end])}


def table_of(path: str) -> Place:
    """The table that a partition belongs to: the folder above its hive segments; without any, the path itself."""
    place = place_of(path)
    segments = place.path.split("/")
    if SOURCE_FOLDER in segments:  # below it lies a folder named after the content
        return Place(place.scheme, place.bucket, "/".join(segments[: segments.index(SOURCE_FOLDER) + 2]))
    first, end = _hive_run(segments)
    if first == end:
        return place
    return Place(place.scheme, place.bucket, "/".join(segments[:first]) or ("" if place.bucket else "/"))


def _hive_run(segments: Sequence[str]) -> tuple[int, int]:
    """From where to where the unbroken run of hive segments goes that ends a folder's path."""
    end = len(segments) - (1 if segments[-1].lower().endswith(FILE_SUFFIXES) else 0)
    first = end
    while first > 0 and HIVE_SEGMENT.match(segments[first - 1]):
        first -= 1
    return first, end


def partition_key(output_path: str, input_path: str) -> str:
    """The key by which a scheduler knows a partition.

    The values of the hive segments, joined by ``|`` as Airflow's own mappers of composite keys take them apart; of the
    output, or of the input where the output has none. Without any, the output file's name without its ending.
    """
    values = partition_values(output_path) or partition_values(input_path)
    if values:
        return "|".join(values.values())
    name = place_of(output_path).path.rsplit("/", 1)[-1]
    for suffix in FILE_SUFFIXES:
        name = name.removesuffix(suffix)
    return name
