from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.hive_columns import refuse_contradicted_keys
from airflow_mullama.storage.parquet.input import open_input

DAY = datetime.date(2026, 1, 3)


def check(path: Path, column: pa.Array, name: str = "ds", **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": ["x"] * len(column), name: column}), path, **options)
    refuse_contradicted_keys(open_input([local_location(str(path))]))


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["2026-01-03"] * 3),
        pa.array(["2026-01-03"] * 3).dictionary_encode(),
        pa.array([DAY] * 3),
        pa.array([datetime.datetime(2026, 1, 3, hour, tzinfo=datetime.timezone.utc) for hour in range(3)]),
        pa.array([None] * 3, pa.string()),
        pa.array([b"\xff"] * 3),  # no text that a path could hold
        pa.array([], pa.string()),
    ],
)
def test_a_column_that_repeats_its_hive_key_is_fine(tmp_path: Path, column: pa.Array) -> None:
    check(tmp_path / "ds=2026-01-03" / "a.parquet", column)


@pytest.mark.parametrize(
    ("column", "held"),
    [
        (pa.array(["2026-01-03", "2026-01-04"]), "2026-01-03 … 2026-01-04"),
        (pa.array([DAY + datetime.timedelta(days=1)]), "2026-01-04"),
        (pa.array(["x"]), "x"),
        (pa.array([5]), "5"),
    ],
)
def test_a_column_that_contradicts_its_hive_key_is_one_sentence(tmp_path: Path, column: pa.Array, held: str) -> None:
    path = tmp_path / "ds=2026-01-03" / "a.parquet"
    with pytest.raises(InputUnreadableError) as caught:
        check(path, column)
    message = str(caught.value)
    assert f"{str(path)!r} lies below ds=2026-01-03 and its column 'ds' holds {held}, so readers" in message
    assert "move the rows" in message


def test_one_contradicting_row_group_is_found(tmp_path: Path) -> None:
    with pytest.raises(InputUnreadableError, match="holds 7"):
        check(tmp_path / "hour=03" / "a.parquet", pa.array([3, 3, 7]), "hour", row_group_size=1)


def test_other_keys_and_columns_inside_of_others_are_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "day=2026-01-03" / "a.parquet"
    check(path, pa.array(["2026-02-01"]))
    check(path, pa.array([{"day": "2026-02-01"}]))


@pytest.mark.parametrize(
    ("segment", "column"),
    [
        ("day=01", pa.array([1], pa.int32())),
        ("day=1", pa.array(["01"])),
        ("day=1", pa.array([1.0])),
        ("day=1.50", pa.array([Decimal("1.5")])),
        ("day=0.1", pa.array([0.1], pa.float32())),
        ("day=1e20", pa.array([1e20])),
        ("day=True", pa.array([True])),
        ("day=10%3A00%3A00", pa.array([datetime.time(10)])),
        ("day=2026-01-03 10%3A00%3A00", pa.array([datetime.datetime.fromisoformat("2026-01-03T10:00:00")])),
        ("day=__HIVE_DEFAULT_PARTITION__", pa.array([None], pa.int32())),
        ("day=__HIVE_DEFAULT_PARTITION__", pa.array(["", None])),
    ],
)
def test_values_are_compared_and_not_the_way_they_are_written(tmp_path: Path, segment: str, column: pa.Array) -> None:
    check(tmp_path / segment / "a.parquet", column, "day")


@pytest.mark.parametrize(
    ("segment", "column", "held"),
    [
        ("day=01", pa.array([11], pa.int32()), "11"),
        ("day=true", pa.array([False]), "false"),
        ("day=true", pa.array(["True"]), "True"),
        ("day=0.1", pa.array([0.1000001]), "0.1000001"),
        ("day=__HIVE_DEFAULT_PARTITION__", pa.array([1]), "1"),
    ],
)
def test_other_values_are_refused_whatever_their_type(
    tmp_path: Path, segment: str, column: pa.Array, held: str
) -> None:
    with pytest.raises(InputUnreadableError, match=f"lies below {segment} and its column 'day' holds {held}, so"):
        check(tmp_path / segment / "a.parquet", column, "day")


def test_without_statistics_nothing_is_claimed(tmp_path: Path) -> None:
    check(tmp_path / "ds=2026-01-03" / "a.parquet", pa.array(["x"]), write_statistics=False)


@pytest.mark.parametrize("column", [pa.array([DAY] * 3), pa.array(["2026-01-03"] * 3), pa.array([20260103] * 3)])
def test_a_compact_date_in_a_path_is_the_same_date(tmp_path: Path, column: pa.Array) -> None:
    check(tmp_path / "ds=20260103" / "a.parquet", column)


def test_a_compact_date_in_a_path_may_be_another_date(tmp_path: Path) -> None:
    with pytest.raises(InputUnreadableError, match="ds=20260104 and its column 'ds' holds 2026-01-03"):
        check(tmp_path / "ds=20260104" / "a.parquet", pa.array([DAY]))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([4_000_000], pa.date32()),  # a day of the year 12921
        pa.array([2**62], pa.timestamp("us")),
        pa.array([b"\xff\xfe"], pa.binary()).view(pa.string()),
    ],
)
def test_statistics_that_python_cannot_hold_say_nothing(tmp_path: Path, column: pa.Array) -> None:
    check(tmp_path / "ds=2026-01-03" / "a.parquet", column)
