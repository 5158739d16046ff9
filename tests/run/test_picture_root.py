"""Where paths of pictures begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama import GenerateJob
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.jobs.pictures import PictureTemplate
from airflow_mullama.run.picture_root import template_with_files
from airflow_mullama.storage.filesystems import resolve_location
from airflow_mullama.storage.partitions import Partition
from airflow_mullama.storage.places import SOURCE_FOLDER

PATHS, PICTURES = pa.schema([("photo", pa.string())]), pa.schema([("photo", pa.binary())])


def job(**arguments: Any) -> GenerateJob:
    endpoint = {"endpoint": "http://localhost:1"}
    made = {"image_columns": ["photo"], **arguments}
    return GenerateJob(model="m", engine="openai", engine_options=endpoint, prompt_template="x", **made)


def partition(path: Path, *files: Path, table: Any = None) -> Partition:
    return Partition(resolve_location(path), tuple(map(resolve_location, files)), resolve_location("out"), table=table)


def read(template: Any, path: str) -> bytes:
    assert isinstance(template, PictureTemplate)
    assert template.files is not None
    (content,) = template.files.read([path])
    assert isinstance(content, bytes)
    return content


def test_they_begin_in_the_folder_of_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    file = tmp_path / "in.parquet"
    for one in (partition(file, file), partition(tmp_path, file)):
        assert read(template_with_files(job(), one, PATHS, None), "a.png") == b"a"
    monkeypatch.chdir(tmp_path)
    here = partition(Path("in.parquet"), Path("in.parquet"))
    assert read(template_with_files(job(), here, PATHS, None), "a.png") == b"a"


def test_or_in_the_one_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"a")
    file, root = tmp_path / "in.parquet", resolve_location(tmp_path / "photos")
    assert read(template_with_files(job(), partition(file, file), PATHS, root), "a.png") == b"a"


def test_a_table_has_no_folder_for_them(tmp_path: Path) -> None:
    table = partition(tmp_path, table=object())
    with pytest.raises(ConfigurationError, match=r"is a table, which has no folder .* with image_root"):
        template_with_files(job(), table, PATHS, None)
    returned = tmp_path / SOURCE_FOLDER / "out" / "0" / "rows.parquet"
    with pytest.raises(ConfigurationError, match=r"is a table, which has no folder .* with image_root"):
        template_with_files(job(), partition(returned, returned), PATHS, None)
    assert read(template_with_files(job(), table, PATHS, resolve_location(Path(__file__).parent)), Path(__file__).name)
    in_columns = template_with_files(job(), table, PICTURES, None)
    assert isinstance(in_columns, PictureTemplate)
    assert in_columns.files is None


def test_a_job_without_pictures_reads_no_files(tmp_path: Path) -> None:
    plain = job(image_columns=None)
    assert template_with_files(plain, partition(tmp_path), PATHS, None) == plain.template
