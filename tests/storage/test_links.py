"""Links, pipes and odd names in a lake: each real file once, and nothing written through a link."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import GenerateJob, run_job
from airflow_mullama.errors import (
    ConfigurationError,
    InputNotFoundError,
    InputUnreadableError,
    OutputExistsError,
    OutputNotWritableError,
)
from airflow_mullama.storage.filesystems import resolve_location
from airflow_mullama.storage.partitions import Partition, discover_partitions

WriteParquet = Callable[..., Path]


@pytest.fixture
def day(tmp_path: Path) -> Path:
    folder = tmp_path / "lake" / "ds=2026-01-01"
    write(folder / "a.parquet")
    return folder


def write(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": list(texts or (path.stem,))}), path)
    return path


def files_of(partitions: list[Partition], below: Path) -> list[str]:
    return [str(Path(file.path).relative_to(below)) for partition in partitions for file in partition.files]


def read(source: Path, output: Path | None = None, **arguments: object) -> list[str]:
    partitions = discover_partitions(source, output or source.parent / "out", **arguments)  # type: ignore[arg-type]
    return files_of(partitions, source)


class TestReading:
    def test_a_link_to_a_file_or_a_directory_elsewhere_is_followed(self, tmp_path: Path, day: Path) -> None:
        (day / "b.parquet").symlink_to(write(tmp_path / "elsewhere" / "b.parquet"))
        (tmp_path / "lake" / "ds=2026-01-02").symlink_to(write(tmp_path / "other" / "c.parquet").parent)
        assert read(tmp_path / "lake") == [
            "ds=2026-01-01/a.parquet",
            "ds=2026-01-01/b.parquet",
            "ds=2026-01-02/c.parquet",
        ]

    def test_each_real_file_is_read_once_whatever_leads_to_it(
        self, tmp_path: Path, day: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (day / "again.parquet").symlink_to(day / "a.parquet")
        (tmp_path / "lake" / "ds=2026-01-02").symlink_to(day)
        with caplog.at_level(logging.WARNING):
            assert read(tmp_path / "lake") == ["ds=2026-01-01/a.parquet"]
        assert "2 link(s) below" in caplog.text
        assert str(day / "again.parquet") in caplog.text

    def test_a_link_to_a_directory_above_is_no_way_round(self, tmp_path: Path, day: Path) -> None:
        write(tmp_path / "beside" / "b.parquet")
        (day / "up").symlink_to(day)
        (day / "further_up").symlink_to(tmp_path)
        assert read(day) == ["a.parquet"]

    def test_two_directories_that_lead_to_each_other_are_read_once_each(self, tmp_path: Path, day: Path) -> None:
        other = write(tmp_path / "other" / "b.parquet").parent
        (day / "other").symlink_to(other)
        (other / "back").symlink_to(day)
        assert read(day) == ["a.parquet", "other/b.parquet"]

    def test_a_file_that_a_link_and_a_linked_directory_lead_to_is_read_once(self, tmp_path: Path, day: Path) -> None:
        other = write(tmp_path / "other" / "b.parquet")
        (day / "b.parquet").symlink_to(other)
        (day / "other").symlink_to(other.parent)
        assert read(day) == ["a.parquet", "b.parquet"]

    def test_copies_that_share_their_bytes_on_the_disk_are_files_of_their_own(self, tmp_path: Path, day: Path) -> None:
        (tmp_path / "lake" / "ds=2026-01-02").mkdir()
        (tmp_path / "lake" / "ds=2026-01-02" / "a.parquet").hardlink_to(day / "a.parquet")
        assert read(tmp_path / "lake") == ["ds=2026-01-01/a.parquet", "ds=2026-01-02/a.parquet"]

    def test_a_filter_counts_for_links_too(self, tmp_path: Path, day: Path) -> None:
        (tmp_path / "lake" / "ds=2026-01-02").symlink_to(write(tmp_path / "elsewhere" / "b.parquet").parent)
        where = {"ds": "2026-01-02"}
        assert read(tmp_path / "lake", where=where) == ["ds=2026-01-02/b.parquet"]

    @pytest.mark.parametrize("name", ["b.parquet", "ds=2026-01-02", "000000_0"])
    def test_a_link_that_leads_nowhere_is_an_error_that_names_it(self, tmp_path: Path, day: Path, name: str) -> None:
        (day / name).symlink_to(tmp_path / "not_mounted" / name)
        with pytest.raises(InputUnreadableError, match=f"{name}' is a link to '.*not_mounted.*mount or restore"):
            read(day)

    def test_so_is_one_that_leads_to_itself(self, day: Path) -> None:
        (day / "b.parquet").symlink_to(day / "b.parquet")
        with pytest.raises(InputUnreadableError, match="Too many levels of symbolic links"):
            read(day)

    @pytest.mark.parametrize("name", ["_latest", ".tmp", "notes.txt"])
    def test_but_not_where_its_name_is_no_datas(self, tmp_path: Path, day: Path, name: str) -> None:
        (day / name).symlink_to(tmp_path / "nowhere")
        assert read(day) == ["a.parquet"]

    def test_an_input_that_is_a_link_to_nothing_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "in.parquet").symlink_to(tmp_path / "gone.parquet")
        with pytest.raises(InputNotFoundError, match=r"in.parquet' is a link to '.*gone.parquet', which is not there"):
            read(tmp_path / "in.parquet")

    def test_a_pipe_is_no_file(self, tmp_path: Path, day: Path) -> None:
        os.mkfifo(tmp_path / "pipe.parquet")
        with pytest.raises(InputUnreadableError, match="neither a file nor a directory but a named pipe"):
            read(tmp_path / "pipe.parquet")
        os.mkfifo(day / "b.parquet")
        with pytest.raises(InputUnreadableError, match=r"b.parquet' is not a file but a named pipe"):
            read(day)

    @pytest.mark.parametrize("name", [b"\xff.parquet", b"\xff"])
    def test_a_name_that_is_not_utf8_is_an_error_that_names_it(self, day: Path, name: bytes) -> None:
        path = os.path.join(bytes(day), name)
        if name.endswith(b".parquet"):
            os.rename(day / "a.parquet", path)
        else:
            os.mkdir(path)
        with pytest.raises(InputUnreadableError, match=r"\\udcff.*' is not UTF-8.*another name"):
            read(day)


class TestWriting:
    def job(self, **arguments: object) -> GenerateJob:
        return GenerateJob(model="echo", prompt_column="text", **arguments)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("output", "words"), [("link/a.parquet", "would overwrite an input"), ("link", "lies below output_path")]
    )
    def test_an_input_is_not_overwritten_through_a_link(
        self, tmp_path: Path, day: Path, output: str, words: str
    ) -> None:
        (tmp_path / "link").symlink_to(day)
        with pytest.raises(ConfigurationError, match=words):
            run_job(self.job(if_exists="overwrite"), day / "a.parquet", tmp_path / output)
        assert pq.read_schema(day / "a.parquet").names == ["text"]

    def test_an_output_directory_may_not_lie_in_the_input_through_a_link(self, tmp_path: Path, day: Path) -> None:
        (tmp_path / "out").symlink_to(tmp_path / "lake")
        with pytest.raises(ConfigurationError, match="input_path and output_path are both"):
            discover_partitions(tmp_path / "lake", tmp_path / "out")
        (tmp_path / "below").symlink_to(day)
        with pytest.raises(ConfigurationError, match="lies below input_path"):
            discover_partitions(tmp_path / "lake", tmp_path / "below" / "out")
        (tmp_path / "lake" / "link").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ConfigurationError, match="lies below input_path"):
            discover_partitions(tmp_path / "lake", tmp_path / "lake" / "link")

    def test_a_link_on_the_way_to_output_path_is_how_machines_are_laid_out(self, tmp_path: Path, day: Path) -> None:
        (tmp_path / "disk").mkdir()
        (tmp_path / "data").symlink_to(tmp_path / "disk")
        run_job(self.job(), day, tmp_path / "data" / "out")
        assert (tmp_path / "disk" / "out" / "ds=2026-01-01" / "part-00000.parquet").is_file()

    @pytest.mark.parametrize("link", ["ds=2026-01-01", "ds=2026-01-01/part-00000.parquet"])
    def test_one_below_it_is_refused(self, tmp_path: Path, day: Path, link: str) -> None:
        path = tmp_path / "out" / link
        path.parent.mkdir(parents=True)
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ConfigurationError, match=f"would be written through the link '.*{link}' to '.*elsewhere'"):
            run_job(self.job(), day, tmp_path / "out")
        assert not (tmp_path / "elsewhere").exists()

    def test_an_output_file_that_is_a_link_is_refused(self, tmp_path: Path, day: Path) -> None:
        (tmp_path / "out.parquet").symlink_to(write(tmp_path / "theirs.parquet"))
        with pytest.raises(ConfigurationError, match="would be written through the link"):
            run_job(self.job(if_exists="overwrite"), day, tmp_path / "out.parquet")
        assert pq.read_schema(tmp_path / "theirs.parquet").names == ["text"]

    @pytest.mark.parametrize("below", ["", "a.parquet", "a.parquet/0123"])
    def test_nothing_is_written_or_deleted_through_a_link_to_the_stage(
        self, tmp_path: Path, day: Path, below: str
    ) -> None:
        theirs = write(tmp_path / "theirs" / "a.parquet" / "part-0.parquet")
        out = tmp_path / "out"
        link = out / "_mullama_stage" / below.replace("0123", self.fingerprint(day, tmp_path))
        link.parent.mkdir(parents=True)
        link.symlink_to(tmp_path / "theirs")
        with pytest.raises(OutputNotWritableError, match="nothing is written or deleted through a link there; remove"):
            run_job(self.job(), day / "a.parquet", out / "a.parquet")
        assert [path for path in sorted((tmp_path / "theirs").rglob("*")) if path.is_file()] == [theirs]

    def fingerprint(self, day: Path, tmp_path: Path) -> str:
        return run_job(self.job(), day / "a.parquet", tmp_path / "first.parquet").fingerprint[:16]

    def test_nor_where_the_output_is_up_to_date(self, tmp_path: Path, day: Path) -> None:
        run_job(self.job(), day / "a.parquet", tmp_path / "out" / "a.parquet")
        theirs = write(tmp_path / "theirs" / "a.parquet" / "part-0.parquet")
        (tmp_path / "out" / "_mullama_stage").symlink_to(tmp_path / "theirs")
        assert run_job(self.job(), day / "a.parquet", tmp_path / "out" / "a.parquet").skipped == "up_to_date"
        assert theirs.is_file()

    @pytest.mark.parametrize("if_exists", ["resume", "overwrite"])
    def test_a_pipe_at_the_outputs_place_is_not_waited_for(self, tmp_path: Path, day: Path, if_exists: str) -> None:
        os.mkfifo(tmp_path / "out.parquet")
        with pytest.raises(OutputExistsError, match="is a named pipe and a Parquet file is to go there"):
            run_job(self.job(if_exists=if_exists), day, tmp_path / "out.parquet")


def test_the_real_path_tells_whether_two_places_are_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert resolve_location(tmp_path / "link" / "a").real_path == str(tmp_path / "real" / "a")
    assert resolve_location(tmp_path / "link" / "a").path == str(tmp_path / "link" / "a")
