from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from airflow_mullama.errors import ConfigurationError, InputNotFoundError, InputUnreadableError, StorageUnavailableError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.partitions import discover_partitions


@pytest.fixture
def lake(tmp_path: Path, write_parquet: Callable[..., Path]) -> Path:
    """Two days of two files each, one day of one, and what is not data."""
    root = tmp_path / "lake"
    for day, files in (("01", ["b", "a"]), ("02", ["a", "b"]), ("03", ["a"])):
        for name in files:
            write_parquet(root / f"ds=2026-01-{day}" / f"part-{name}.parquet", ["x"])
    hidden_names = (
        "_SUCCESS",
        "_tmp/part-a.parquet",
        ".git/part-a.parquet",
        "ds=2026-01-01/_part.parquet",
        "ds=2026-01-01/.part.parquet.crc",
        "ds=2026-01-01/readme.txt",
        "_mullama_stage/x/y.parquet",
    )
    for hidden in hidden_names:
        path = root / hidden
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no data")
    return root


def described(partitions: Any, root: Path) -> list[tuple[str, list[str], str]]:
    return [
        (
            str(one.input).removeprefix(f"{root}/"),
            [file.name for file in one.files],
            str(one.output).removeprefix(f"{root}/"),
        )
        for one in partitions
    ]


def test_a_file_goes_below_the_output_directory_with_its_name(tmp_path: Path, write_parquet: Any) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", ["x"])
    found = discover_partitions(tmp_path / "in" / "a.parquet", tmp_path / "out")
    assert described(found, tmp_path) == [("in/a.parquet", ["a.parquet"], "out/a.parquet")]


def test_an_output_that_names_a_file_is_that_file(tmp_path: Path, write_parquet: Any) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", ["x"])
    for source in ("in/a.parquet", "in"):
        (found,) = discover_partitions(tmp_path / source, tmp_path / "out.parquet")
        assert str(found.output) == str(tmp_path / "out.parquet")


def test_a_directory_of_files_is_one_partition_in_order_of_name(tmp_path: Path, write_parquet: Any) -> None:
    for name in ("c.PARQUET", "a.parquet", "b.pq"):
        write_parquet(tmp_path / "in" / name, ["x"])
    found = discover_partitions(tmp_path / "in", tmp_path / "out")
    assert described(found, tmp_path) == [("in", ["a.parquet", "b.pq", "c.PARQUET"], "out/in.parquet")]


def test_a_hive_lake_is_a_partition_for_each_day_and_hidden_names_are_no_data(lake: Path) -> None:
    assert described(discover_partitions(lake, lake.parent / "out"), lake.parent) == [
        ("lake/ds=2026-01-01", ["part-a.parquet", "part-b.parquet"], "out/ds=2026-01-01/part-00000.parquet"),
        ("lake/ds=2026-01-02", ["part-a.parquet", "part-b.parquet"], "out/ds=2026-01-02/part-00000.parquet"),
        ("lake/ds=2026-01-03", ["part-a.parquet"], "out/ds=2026-01-03/part-00000.parquet"),
    ]


def test_a_partitions_output_does_not_depend_on_what_is_processed_with_it(lake: Path) -> None:
    together = discover_partitions(lake, lake.parent / "out")
    alone = [discover_partitions(str(one.input), lake.parent / "out")[0] for one in together]
    listed = discover_partitions([str(one.input) for one in reversed(together)], lake.parent / "out")
    outputs = [str(one.output) for one in together]
    assert [str(one.output) for one in alone] == outputs
    assert [str(one.output) for one in listed] == outputs[::-1]


def test_a_file_in_a_hive_directory_keeps_its_segments(lake: Path) -> None:
    (found,) = discover_partitions(lake / "ds=2026-01-01" / "part-a.parquet", lake.parent / "out")
    assert str(found.output) == f"{lake.parent}/out/ds=2026-01-01/part-a.parquet"
    (given,) = discover_partitions(lake / "ds=2026-01-01" / "part-a.parquet", lake.parent / "out" / "ds=2026-01-01")
    assert str(given.output) == f"{lake.parent}/out/ds=2026-01-01/part-a.parquet"


def test_nested_directories_keep_their_place(tmp_path: Path, write_parquet: Any) -> None:
    write_parquet(tmp_path / "in" / "eu" / "ds=1" / "hour=2" / "a.parquet", ["x"])
    write_parquet(tmp_path / "in" / "us" / "a.parquet", ["x"])
    assert described(discover_partitions(tmp_path / "in", tmp_path / "out"), tmp_path) == [
        ("in/eu/ds=1/hour=2", ["a.parquet"], "out/eu/ds=1/hour=2/part-00000.parquet"),
        ("in/us", ["a.parquet"], "out/us/part-00000.parquet"),
    ]


def test_a_trailing_slash_changes_nothing(lake: Path) -> None:
    with_slash = discover_partitions(f"{lake}/", f"{lake.parent}/out/")
    assert [str(one.output) for one in with_slash] == [
        str(one.output) for one in discover_partitions(lake, lake.parent / "out")
    ]


def test_a_list_of_outputs_goes_with_the_list_of_inputs(tmp_path: Path, write_parquet: Any) -> None:
    sources = [write_parquet(tmp_path / "in" / day / "a.parquet", ["x"]) for day in ("1", "2")]
    found = discover_partitions(sources, [tmp_path / "one.parquet", tmp_path / "two"])
    assert [str(one.output) for one in found] == [f"{tmp_path}/one.parquet", f"{tmp_path}/two/a.parquet"]
    with pytest.raises(ConfigurationError, match="output_path is a list of 1 and input_path one of 2"):
        discover_partitions(sources, [tmp_path / "one.parquet"])


def test_inputs_that_would_share_an_output_are_refused_by_name(tmp_path: Path, write_parquet: Any) -> None:
    sources = [write_parquet(tmp_path / "in" / day / "a.parquet", ["x"]) for day in ("1", "2")]
    with pytest.raises(ConfigurationError) as caught:
        discover_partitions(sources, tmp_path / "out")
    message = str(caught.value)
    assert all(str(source) in message for source in sources)
    assert f"{tmp_path}/out/a.parquet" in message
    assert "list" in message


def test_an_output_over_an_input_is_refused(tmp_path: Path, write_parquet: Any) -> None:
    source = write_parquet(tmp_path / "in" / "a.parquet", ["x"])
    for output in (source, tmp_path / "in"):
        with pytest.raises(ConfigurationError, match="would overwrite an input"):
            discover_partitions(source, output)


def test_an_output_that_the_next_run_would_take_for_input_is_refused(tmp_path: Path, write_parquet: Any) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", ["x"])
    with pytest.raises(ConfigurationError, match="output_path"):
        discover_partitions(tmp_path / "in", tmp_path / "in" / "out")


@pytest.mark.parametrize(
    ("source", "output", "sentence"),
    [
        ("lake", "lake", "input_path and output_path are both"),
        ("lake", "lake/out", "lies below input_path"),
        ("lake", "lake/ds=2026-01-09", "lies below input_path"),
        ("lake/", "lake/out/deep", "lies below input_path"),
        ("lake/ds=2026-01-01", "lake", "would lie among the input files"),
        ("lake/ds=2026-01-01", "lake/ds=2026-01-01", "input_path and output_path are both"),
        ("lake/ds=2026-01-01/part-a.parquet", "lake", "would overwrite an input"),
        ("lake", ".", "lies below output_path"),
    ],
)
def test_paths_that_lie_in_each_other_are_refused(lake: Path, source: str, output: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        discover_partitions(f"{lake.parent}/{source}", f"{lake.parent}/{output}".removesuffix("/."))


def test_an_input_that_readers_of_the_output_pass_by_may_lie_below_it(tmp_path: Path, write_parquet: Any) -> None:
    write_parquet(tmp_path / "_incoming" / "a.parquet", ["x"])
    (found,) = discover_partitions(tmp_path / "_incoming" / "a.parquet", tmp_path)
    assert str(found.output) == f"{tmp_path}/a.parquet"


def test_an_output_among_the_inputs_of_another_is_refused(lake: Path) -> None:
    days = [lake / "ds=2026-01-01", lake / "ds=2026-01-02"]
    with pytest.raises(ConfigurationError, match="would lie among the input files"):
        discover_partitions(days, [lake.parent / "out", days[0] / "other.parquet"])


def test_inputs_that_are_not_there_may_be_left_out(lake: Path) -> None:
    days = [lake / "ds=2026-01-01", lake / "ds=2026-01-09"]
    found = discover_partitions(days, lake.parent / "out", leave_out_missing=True)
    assert [one.input.name for one in found] == ["ds=2026-01-01"]
    assert discover_partitions(days[1], lake.parent / "out", leave_out_missing=True) == []


def test_a_store_that_does_not_answer_is_not_a_missing_input(lake: Path) -> None:
    class Broken(pafs.FileSystemHandler):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("get_file_info"):
                raise OSError("connection refused")
            return super().__getattribute__(name)

    Broken.__abstractmethods__ = frozenset()
    place = Location(pafs.PyFileSystem(Broken()), "lake", "broken://lake")
    with pytest.raises(StorageUnavailableError, match="'broken://lake' cannot be looked up"):
        discover_partitions("broken://lake", lake.parent / "out", lambda _: place, leave_out_missing=True)


def test_several_partitions_do_not_go_into_one_file(lake: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is one file and .* holds 3 partition"):
        discover_partitions(lake, lake.parent / "out.parquet")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"no file or directory at '.*/missing'.*input_path"):
        discover_partitions(tmp_path / "missing", tmp_path / "out")


def test_a_directory_without_data_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.avro").write_text("x")
    with pytest.raises(InputNotFoundError, match=r"'.*/in' holds no data file"):
        discover_partitions(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("path", [None, 5, [], [5], ""])
def test_a_path_that_is_none_is_refused(path: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        discover_partitions(path, tmp_path)


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("a.jsonl", "a.parquet"),
        ("a.ndjson.gz", "a.parquet"),
        ("A.CSV", "A.parquet"),
        ("a.b.csv.gz", "a.b.parquet"),
        ("ds=2026-01-31/a.csv", "ds=2026-01-31/a.parquet"),
        ("tickets.csv/part-0.csv", "tickets.parquet"),
        ("ds=2026-01-31/a.jsonl ds=2026-01-31/b.jsonl.gz", "ds=2026-01-31/part-00000.parquet"),
    ],
)
def test_the_output_of_json_lines_and_csv_is_named_as_parquet(tmp_path: Path, source: str, output: str) -> None:
    files = [tmp_path / "in" / name for name in source.split()]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    is_folder = len(files) > 1 or source.startswith("tickets")
    (partition,) = discover_partitions(files[0].parent if is_folder else files[0], tmp_path / "out")
    assert partition.output.path == str(tmp_path / "out" / output)
    assert [file.path for file in partition.files] == [str(file) for file in files]


@pytest.mark.parametrize("other", ["b.parquet", "000000_0", "b.jsonl"])
def test_a_directory_of_several_formats_is_refused(tmp_path: Path, other: str) -> None:
    folder = tmp_path / "in" / "ds=2026-01-31"
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text("x")
    (folder / other).write_bytes(b"PAR1" * 4)
    with pytest.raises(InputUnreadableError, match=r"several formats, .*'a.csv' \(CSV\)"):
        discover_partitions(tmp_path / "in", tmp_path / "out")


def test_an_output_is_never_named_as_anything_but_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(ConfigurationError, match=r"has the name of a CSV file, and outputs are Parquet"):
        discover_partitions(tmp_path / "a.csv", tmp_path / "out.csv")
