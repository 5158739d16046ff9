from __future__ import annotations

import datetime
from typing import Any

import pytest

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.storage.hive import hive_values
from airflow_mullama.storage.hive_filter import HiveFilter, compare_values


def wanted(where: dict[str, Any], path: str) -> bool:
    return HiveFilter.parse(where).matches(hive_values(path))


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("9", "10"),
        ("-1", "0.5"),
        ("2026-01-31", "2026-02-01"),
        ("2026-01-31T23", "2026-02-01 00:00"),
        ("2026-01-01T00:00:00+02:00", "2026-01-01T00:00:00Z"),
        ("2026-01", "2026-02"),
        ("apple", "pear"),
        ("2026-02-28", "2026-02-30"),  # no date, so both are texts
    ],
)
def test_values_compare_as_what_they_look_like(low: str, high: str) -> None:
    assert compare_values(low, high) < 0 < compare_values(high, low)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3", "03"),
        ("1.50", "1.5"),
        ("2026-01-03", "2026-01-03T17:30"),
        ("2026-01-03T00:00:00+00:00", "2026-01-03 00:00:00.000"),
        ("2026-01-03T02:00+0200", "2026-01-03T00:00:00Z"),
        ("eu", "eu"),
    ],
)
def test_equal_values_may_be_spelled_differently(one: str, other: str) -> None:
    assert compare_values(one, other) == compare_values(other, one) == 0


@pytest.mark.parametrize(
    ("condition", "matching"),
    [
        ("2026-01-03", [3]),
        (datetime.date(2026, 1, 3), [3]),
        (["2026-01-01", "2026-01-04"], [1, 4]),
        ({"from": "2026-01-02", "to": "2026-01-03"}, [2, 3]),
        ({"from": "2026-01-03"}, [3, 4]),
        ({"to": "2026-01-02"}, [1, 2]),
        ("2026-02-01", []),
    ],
)
def test_a_filter_is_a_value_a_list_or_a_range_with_both_ends(condition: Any, matching: list[int]) -> None:
    assert [day for day in range(1, 5) if wanted({"ds": condition}, f"lake/ds=2026-01-0{day}")] == matching


def test_numbers_may_be_given_as_numbers_or_as_what_a_template_makes_of_them() -> None:
    for condition in (3, "3", [3], {"from": 3, "to": 3}, {"from": "2.5", "to": "10"}):
        assert wanted({"hour": condition}, "hour=03")


def test_all_keys_must_match_and_all_must_be_there() -> None:
    where = {"ds": "2026-01-01", "region": ["eu", "us"]}
    assert wanted(where, "ds=2026-01-01/region=us")
    assert not wanted(where, "ds=2026-01-01/region=asia")
    assert not wanted(where, "ds=2026-01-01")


def test_null_is_a_value_of_its_own() -> None:
    null = "region=__HIVE_DEFAULT_PARTITION__"
    assert wanted({"region": None}, null)
    assert wanted({"region": ["eu", None]}, null)
    assert not wanted({"region": {"from": "a"}}, null)
    assert not wanted({"region": None}, "region=eu")


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ({}, "must be a dictionary of hive keys"),
        ("ds=1", "must be a dictionary of hive keys"),
        ({"ds=1": "x"}, "a key is what stands before '='"),
        ({5: "x"}, "where has the key 5"),
        ({"ds": []}, "an empty list for 'ds'"),
        ({"ds": {}}, "or a range"),
        ({"ds": {"since": "2026-01-01"}}, "or a range"),
        ({"ds": True}, "where has True for 'ds'"),
        ({"ds": {"from": None}}, "where has None for 'ds'"),
        ({"ds": {"from": "2026-01-31", "to": "2026-01-01"}}, r"ends \(2026-01-01\) before it begins"),
        ({"hour": {"from": 10, "to": 9}}, r"ends \(9\) before it begins \(10\)"),
    ],
)
def test_a_filter_of_another_spelling_is_one_sentence(where: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        HiveFilter.parse(where)
