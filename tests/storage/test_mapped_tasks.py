from __future__ import annotations

import datetime
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama import list_partitions
from airflow_mullama.errors import ConfigurationError, InputNotFoundError, InputUnreadableError
from airflow_mullama.storage.filesystems import Location, fsspec_filesystem, local_location
from airflow_mullama.storage.mapped_tasks import MAX_MAP_LENGTH, balanced_groups, partition_name
from airflow_mullama.storage.partitions import Partition, discover_partitions

DAYS = [f"2026-01-{day:02}" for day in range(1, 6)]


@pytest.fixture
def lake(tmp_path: Path, write_parquet: Callable[..., Path]) -> Path:
    """Five days in two regions; the third day is by far the largest."""
    for day in DAYS:
        for region in ("eu", "us"):
            rows = 4000 if day == "2026-01-03" else 4
            texts = [f"{day} {region} {row}" for row in range(rows)]
            write_parquet(tmp_path / "lake" / f"ds={day}" / f"region={region}" / "part-0.parquet", texts)
    return tmp_path / "lake"


def inputs(tasks: Any) -> list[list[str]]:
    return [[task["input_path"]] if isinstance(task["input_path"], str) else task["input_path"] for task in tasks]


def days(tasks: Any) -> list[str]:
    return sorted({path.split("ds=")[1][:10] for group in inputs(tasks) for path in group})


def test_each_task_gets_one_partition_in_order_of_path(lake: Path) -> None:
    assert list_partitions(str(lake), "/out") == [
        {
            "input_path": f"{lake}/ds={day}/region={region}",
            "output_path": f"/out/ds={day}/region={region}/part-00000.parquet",
        }
        for day in DAYS
        for region in ("eu", "us")
    ]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"ds": "2026-01-02"}, ["2026-01-02"]),
        ({"ds": ["2026-01-05", "2026-01-01", "2025-01-01"]}, ["2026-01-01", "2026-01-05"]),
        ({"ds": {"from": "2026-01-02", "to": "2026-01-04"}}, DAYS[1:4]),
        ({"ds": {"from": datetime.date(2026, 1, 5)}}, DAYS[4:]),
        ({"region": "eu"}, DAYS),
        ({"region": "us", "ds": {"to": "2026-01-01"}}, ["2026-01-01"]),
    ],
)
def test_partitions_are_chosen_by_hive_key(lake: Path, where: Any, expected: list[str]) -> None:
    tasks = list_partitions(lake, "/out", where=where)
    assert days(tasks) == expected
    everything = list_partitions(lake, "/out")
    assert tasks == [task for task in everything if task in tasks]  # the same arguments, in the same order


def test_a_filter_also_looks_at_the_path_that_was_given(lake: Path) -> None:
    day = lake / "ds=2026-01-02"
    assert len(list_partitions(day, "/out", where={"ds": "2026-01-02"})) == 2
    assert list_partitions(day, "/out", where={"ds": "2026-01-01"}, if_input_missing="empty") == []
    file = day / "region=eu" / "part-0.parquet"
    assert inputs(list_partitions([file], "/out", where={"region": "eu"})) == [[str(file)]]


def test_what_a_filter_rules_out_is_not_listed(lake: Path) -> None:
    listed: list[str] = []

    class Spy(type(fsspec.filesystem("file"))):  # type: ignore[misc]
        cachable = False

        def find(self, path: str, *arguments: Any, **options: Any) -> Any:
            listed.append(path)
            return super().find(path, *arguments, **options)

        def ls(self, path: str, *arguments: Any, **options: Any) -> Any:
            listed.append(path)
            return super().ls(path, *arguments, **options)

    filesystem = fsspec_filesystem(Spy())
    tasks = list_partitions(
        lake, "/out", where={"ds": "2026-01-02"}, resolver=lambda path: Location(filesystem, str(path), str(path))
    )
    assert len(tasks) == 2
    assert [path for path in listed if "ds=" in path and "ds=2026-01-02" not in path] == []


def test_a_key_that_is_no_hive_key_is_named_with_those_there_are(lake: Path, tmp_path: Path) -> None:
    for where in ({"dt": "2026-01-01"}, {"ds": "2026-01-01", "dt": "x"}):
        for if_input_missing in ("fail", "empty"):
            with pytest.raises(ConfigurationError, match=r"where names 'dt', .* have the hive key\(s\) 'ds', 'region'"):
                list_partitions(lake, "/out", where=where, if_input_missing=if_input_missing)  # type: ignore[arg-type]
    plain = lake / "ds=2026-01-01" / "region=eu" / "part-0.parquet"
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.parquet").write_bytes(plain.read_bytes())
    with pytest.raises(ConfigurationError, match=r"have no hive keys \(such as ds="):
        list_partitions(tmp_path / "plain", "/out", where={"ds": "2026-01-01"})


def test_a_filter_that_wants_nothing_says_what_there_is(lake: Path, caplog: pytest.LogCaptureFixture) -> None:
    sentence = r"matches where \(ds 2027-01-01\); those there have ds 2026-01-01 … 2026-01-05 \(5 values\): correct it"
    with pytest.raises(InputNotFoundError, match=sentence):
        list_partitions(lake, "/out", where={"ds": "2027-01-01"})
    with caplog.at_level(logging.INFO):
        assert list_partitions(lake, "/out", where={"ds": "2027-01-01"}, if_input_missing="empty") == []
    assert "matches where (ds 2027-01-01)" in caplog.text


def test_a_path_that_is_not_there_is_an_error_or_an_empty_list(tmp_path: Path) -> None:
    for where in (None, {"ds": "2026-01-01"}):
        with pytest.raises(InputNotFoundError, match="no file or directory at"):
            list_partitions(tmp_path / "missing", "/out", where=where)
        assert list_partitions(tmp_path / "missing", "/out", where=where, if_input_missing="empty") == []
    (tmp_path / "missing").mkdir()
    for where in (None, {"ds": "2026-01-01"}):
        with pytest.raises(InputNotFoundError, match="holds no data file"):
            list_partitions(tmp_path / "missing", "/out", where=where)


def test_few_tasks_are_balanced_by_bytes(lake: Path) -> None:
    tasks = inputs(list_partitions(lake, "/out", max_tasks=3))
    # The two halves of the large day have tasks of their own; the small ones share the third.
    assert sorted(map(len, tasks)) == [1, 1, 8]
    assert all(group == sorted(group) for group in tasks)
    assert [group[0] for group in tasks] == sorted(group[0] for group in tasks)
    assert tasks == inputs(list_partitions(lake, "/out", max_tasks=3))


def test_few_tasks_are_balanced_by_rows(tmp_path: Path) -> None:
    # Bytes and rows disagree: many small rows against one large.
    for name, texts in (("a", ["x"] * 1000), ("b", ["y" * 100_000]), ("c", ["z"] * 500), ("d", ["z"] * 500)):
        (tmp_path / "in" / name).mkdir(parents=True)
        pq.write_table(pa.table({"text": texts}), tmp_path / "in" / name / "x.parquet", compression=None)
    by_rows = inputs(list_partitions(tmp_path / "in", "/out", max_tasks=2, balance="rows"))
    assert [[path[-1] for path in group] for group in by_rows] == [["a", "b"], ["c", "d"]]
    by_bytes = inputs(list_partitions(tmp_path / "in", "/out", max_tasks=2))
    assert ["b"] in [[path[-1] for path in group] for group in by_bytes]


def test_no_more_tasks_than_airflow_maps(lake: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for max_tasks in (None, 9):
            assert len(list_partitions(lake, "/out", max_tasks=max_tasks, max_map_length=4)) == 4
    assert "10 tasks would be more than Airflow maps ([core] max_map_length is 4): 10 partitions share 4" in caplog.text
    assert len(list_partitions(lake, "/out", max_tasks=MAX_MAP_LENGTH * 2)) == 10


def test_grouped_arguments_stand_for_the_same_partitions(lake: Path) -> None:
    listed = {
        str(one.input): str(one.output)
        for task in list_partitions(lake, "/out", max_tasks=2)
        for one in discover_partitions(task["input_path"], task["output_path"])
    }
    assert listed == {str(one.input): str(one.output) for one in discover_partitions(lake, "/out")}


@given(weights=st.lists(st.integers(0, 1000), min_size=1, max_size=40), data=st.data())
def test_groups_lose_nothing_and_the_heaviest_is_near_the_best(weights: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(weights)))
    place = local_location("/lake")
    partitions = [Partition(place.join(str(index)), (), place) for index in range(len(weights))]
    groups = balanced_groups(partitions, weights, count)
    numbers = [[int(one.input.name) for one in group] for group in groups]
    assert len(groups) == count
    assert all(group and group == sorted(group) for group in numbers)
    assert sorted(number for group in numbers for number in group) == list(range(len(weights)))
    heaviest = max(sum(weights[number] for number in group) for group in numbers)
    best_possible = max(max(weights), -(-sum(weights) // count))
    assert heaviest <= best_possible + max(weights)


@pytest.mark.parametrize("max_tasks", [0, -1, 1.5, True, "3"])
def test_a_number_of_tasks_that_is_none_is_named(lake: Path, max_tasks: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"max_tasks is {max_tasks!r}"):
        list_partitions(lake, "/out", max_tasks=max_tasks)


def test_other_wrong_arguments_are_named(lake: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"balance is 'size'; it must be one of 'bytes', 'rows'\."):
        list_partitions(lake, "/out", balance="size")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="if_input_missing is 'skip'"):
        list_partitions(lake, "/out", if_input_missing="skip")  # type: ignore[arg-type]


def test_an_object_store_is_listed_by_url(object_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("AWS_ENDPOINT_URL", object_store.endpoint),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    for day in (1, 2, 3):
        object_store.write(object_store.url("lake", f"ds={day}", "a.parquet"), pa.table({"text": ["x"]}))
    object_store.write(object_store.url("lake", "_tmp", "a.parquet"), pa.table({"text": ["x"]}))
    # Hive's sign survives in the bucket's paths and in the urls of both sides.
    expected = [
        {
            "input_path": object_store.url("lake", f"ds={day}"),
            "output_path": object_store.url("out", f"ds={day}", "part-00000.parquet"),
        }
        for day in (1, 2, 3)
    ]
    lake, out = object_store.url("lake"), object_store.url("out")
    assert list_partitions(lake, out) == expected
    assert list_partitions(lake, out, where={"ds": {"from": 2}}) == expected[1:]
    (both,) = list_partitions(lake, out, where={"ds": [1, 3]}, max_tasks=1, balance="rows")
    assert both["input_path"] == [expected[0]["input_path"], expected[2]["input_path"]]


def test_any_fsspec_filesystem_is_listed_by_url() -> None:
    memory = fsspec.filesystem("memory")
    for day in (1, 2):
        with memory.open(f"/mapping-lake/ds={day}/a.parquet", "wb") as file:
            pq.write_table(pa.table({"text": ["x"]}), file)
    tasks = list_partitions("memory://mapping-lake", "memory://out", where={"ds": 2})
    assert tasks == [
        {"input_path": "memory://mapping-lake/ds=2", "output_path": "memory://out/ds=2/part-00000.parquet"}
    ]


def test_a_day_without_parquet_is_named_only_where_it_is_wanted(lake: Path) -> None:
    (lake / "ds=2026-01-06").mkdir()
    (lake / "ds=2026-01-06" / "part-0.avro").write_text("id,text")
    (lake / "readme.txt").write_text("no partition")
    (lake / "ds=2026-01-05" / "checksums.txt").write_text("beside partitions")
    with pytest.raises(InputUnreadableError, match=r"ds=2026-01-06' holds 'part-0.avro' and no file that is read"):
        list_partitions(lake, "/out")
    assert days(list_partitions(lake, "/out", where={"ds": {"to": "2026-01-05"}})) == DAYS


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        ("/lake/ds=2026-01-01", "ds=2026-01-01"),
        ("s3://bucket/lake/ds=2026-01-01/hour=03/", "ds=2026-01-01/hour=03"),
        ("/lake/ds=2026-01-01/part-0.parquet", "ds=2026-01-01/part-0.parquet"),
        ("/lake/day.parquet", "day.parquet"),
        (Path("/lake"), "lake"),
        (["/lake/ds=1", "/lake/ds=4"], "ds=1, ds=4"),
        ([f"/lake/ds={day}" for day in range(1, 9)], "ds=1, ds=2 and 6 more"),
    ],
)
def test_a_tasks_name_is_its_partitions(paths: Any, name: str) -> None:
    assert partition_name(paths) == name


def test_a_tasks_name_fits_where_airflow_keeps_it() -> None:
    assert len(partition_name([f"/lake/{'x' * 200}{number}.parquet" for number in range(2)])) == 250
    with pytest.raises(ConfigurationError, match="input_path is empty"):
        partition_name([])


def test_the_first_two_arguments_may_be_given_by_position() -> None:
    kinds = {name: one.kind for name, one in inspect.signature(list_partitions).parameters.items()}
    assert [name for name, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD] == [
        "path",
        "output",
    ]
