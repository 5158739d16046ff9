"""What a partition's path says of it: the table it belongs to, its place in that table, the store it lies in.

Nothing is looked up: these are the names that catalogues, schedulers and people know a partition by.
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow_mullama.storage.addresses import local_path, scheme_of, shown_address, split_query
from airflow_mullama.storage.hive import NULL_VALUE, PARQUET_SUFFIXES, data_format, hive_run, hive_values, is_parquet

# Beside an output: the rows that a decorated function returned as a table, in a folder of the output's name.
SOURCE_FOLDER = "_mullama_source"
# Two names of one store.
BUCKET_SCHEMES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "delta+s3a": "delta+s3", "delta+gcs": "delta+gs"}


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
        return is_parquet(self.path)


def place_of(path: str) -> Place:
    """Take a path or URL apart."""
    scheme = scheme_of(path)
    if scheme in ("", "file"):
        return Place("file", "", local_path(path).rstrip("/") or "/")
    shown, _ = split_query(shown_address(path))
    host, _, below = shown[len(scheme) + 3 :].partition("/")
    if scheme == "delta":  # a table of this machine
        return Place(scheme, "", f"/{below.strip('/')}")
    return Place(BUCKET_SCHEMES.get(scheme, scheme), host, below.strip("/"))


def partition_values(path: str) -> dict[str, str]:
    """Keys and values of a partition's hive segments (``ds=2026-11-01``), in their order, as before escaping."""
    _, run = _split(place_of(path).path)
    return {key: NULL_VALUE if value is None else value for key, value in hive_values("/".join(run)).items()}


def table_of(path: str) -> Place:
    """The table that a partition belongs to: the folder above its hive segments; without any, the path itself."""
    place = place_of(path)
    segments = place.path.split("/")
    if SOURCE_FOLDER in segments:  # below it lies a folder named after the content
        return Place(place.scheme, place.bucket, "/".join(segments[: segments.index(SOURCE_FOLDER) + 2]))
    above, run = _split(place.path)
    if not run:
        return place
    return Place(place.scheme, place.bucket, "/".join(above) or ("" if place.bucket else "/"))


def lasting_name(place: Place) -> str:
    """The URL by which an input is known again, of a table that a function returned without the hash of its content."""
    segments = place.path.split("/")
    if SOURCE_FOLDER in segments:
        segments = segments[: segments.index(SOURCE_FOLDER) + 2]
    user, at, host = place.bucket.rpartition("@")
    bucket = host if ":" in user else f"{user}{at}{host}"  # a password; a container of Azure stands there too
    return Place(place.scheme, bucket, "/".join(segments)).url


def _split(path: str) -> tuple[list[str], list[str]]:
    """The segments of a table's path, and the hive segments below it."""
    segments = path.split("/")
    if data_format(segments[-1]) is not None:
        segments.pop()
    run = hive_run(segments)
    return segments[: len(segments) - len(run)], run


def partition_key(output_path: str, input_path: str) -> str:
    """The key by which a scheduler knows a partition.

    The values of the hive segments, joined by ``|`` as Airflow's own mappers of composite keys take them apart; of the
    output, or of the input where the output has none. Without any, the output file's name without its ending.
    """
    values = partition_values(output_path) or partition_values(input_path)
    if values:
        return "|".join(values.values())
    name = place_of(output_path).path.rsplit("/", 1)[-1]
    for suffix in PARQUET_SUFFIXES:
        name = name.removesuffix(suffix)
    return name
