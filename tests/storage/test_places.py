"""Tables, partition keys and links, by path alone."""

from __future__ import annotations

import pytest

from airflow_mullama.storage.places import lasting_name, partition_key, partition_values, place_of, table_of


@pytest.mark.parametrize(
    ("path", "table"),
    [
        ("/lake/tickets/ds=2026-11-01/part-00000.parquet", "file:///lake/tickets"),
        ("/lake/tickets/ds=2026-11-01", "file:///lake/tickets"),
        ("file:///lake/tickets/ds=2026-11-01/", "file:///lake/tickets"),
        ("/a=b/lake/tickets/ds=1/country=de/x.PARQUET", "file:///a=b/lake/tickets"),
        ("/lake/in.parquet", "file:///lake/in.parquet"),
        ("/lake/tickets", "file:///lake/tickets"),
        ("s3://bucket/lake/t/ds=1/x.parquet", "s3://bucket/lake/t"),
        ("s3://my_conn@bucket/lake/t/ds=1", "s3://bucket/lake/t"),
        ("s3a://bucket/ds=1/x.parquet", "s3://bucket/"),
        ("gcs://bucket/t/x.parquet", "gs://bucket/t/x.parquet"),
        ("abfss://container@account.dfs.core.windows.net/t/ds=1", "abfss://container@account.dfs.core.windows.net/t"),
        ("/out/_mullama_source/rows.parquet/0123/rows.parquet", "file:///out/_mullama_source/rows.parquet"),
    ],
)
def test_a_partition_belongs_to_the_folder_above_its_hive_segments(path: str, table: str) -> None:
    assert table_of(path).url == table


def test_hive_values_are_as_they_were_before_escaping() -> None:
    assert partition_values("/t/ds=2026-11-01/at=12%3A00/x.parquet") == {"ds": "2026-11-01", "at": "12:00"}


@pytest.mark.parametrize(
    ("output", "source", "key"),
    [
        ("/out/ds=2026-11-01/part-00000.parquet", "/in/ds=2026-11-01", "2026-11-01"),
        ("/out/ds=2026-11-01/country=de/x.parquet", "/in/x", "2026-11-01|de"),
        ("/out/day.parquet", "s3://b/in/ds=2026-11-01/a.parquet", "2026-11-01"),
        ("/out/reviews.parquet", "/in/reviews.parquet", "reviews"),
    ],
)
def test_a_partition_has_a_key(output: str, source: str, key: str) -> None:
    assert partition_key(output, source) == key


def test_a_bucket_alone_is_a_place() -> None:
    assert place_of("s3://bucket").url == "s3://bucket/"
    assert place_of("/").url == "file:///"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/lake/tickets/", "file:///lake/tickets"),
        ("file:///lake/tickets", "file:///lake/tickets"),
        ("s3://my_conn@bucket/lake", "s3://bucket/lake"),
        ("abfss://container@account/lake", "abfss://container@account/lake"),
        ("ftp://me:secret@host/lake", "ftp://host/lake"),
        ("/out/_mullama_source/rows.parquet/0123/rows.parquet", "file:///out/_mullama_source/rows.parquet"),
    ],
)
def test_an_input_is_known_again_by_its_place(path: str, name: str) -> None:
    assert lasting_name(place_of(path)) == name
