from __future__ import annotations

import pytest

from airflow_mullama.storage.hive import hive_run, hive_values, is_data, is_hive_segment, is_parquet


def test_a_paths_segments_are_its_keys_and_values() -> None:
    assert hive_values("lake/ds=2026-01-31/region=eu/part.parquet") == {"ds": "2026-01-31", "region": "eu"}
    assert hive_values("a=1/a=2/=x/plain") == {"a": "2"}


def test_what_spark_writes_for_a_null_and_for_odd_letters_is_read() -> None:
    assert hive_values("region=__HIVE_DEFAULT_PARTITION__/at=2026-01-01 10%3A00%3A00") == {
        "region": None,
        "at": "2026-01-01 10:00:00",
    }


@pytest.mark.parametrize(
    ("path", "run"),
    [
        ("/lake/ds=1/region=eu", ["ds=1", "region=eu"]),
        ("/a=b/lake/ds=1", ["ds=1"]),
        ("/lake/ds=1/part.parquet", []),
        ("ds=1", ["ds=1"]),
        ("/lake", []),
        ("", []),
    ],
)
def test_the_run_of_segments_is_the_one_that_ends_the_path(path: str, run: list[str]) -> None:
    assert hive_run(path.split("/")) == run


@pytest.mark.parametrize(
    ("name", "is_one"), [("ds=1", True), ("ds=", True), ("a=b=c", True), ("=1", False), ("ds", False)]
)
def test_a_segment_has_a_key(name: str, is_one: bool) -> None:
    assert is_hive_segment(name) is is_one


def test_names_say_what_is_data_and_what_is_parquet() -> None:
    assert [is_data(name) for name in ("part.parquet", "ds=1", "_SUCCESS", ".crc")] == [True, True, False, False]
    assert [is_parquet(name) for name in ("a.parquet", "A.PQ", "_a.parq", "parquet", "a.parquet.crc")] == [
        True,
        True,
        True,
        False,
        False,
    ]
