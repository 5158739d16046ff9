from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from airflow_mullama.errors import ConfigurationError, DependencyMissingError
from airflow_mullama.storage.filesystems import resolve_location


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    location = resolve_location("in/../out/a.parquet")
    assert location.path == str(tmp_path / "out" / "a.parquet")
    assert location.is_local


def test_home_and_file_urls_are_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_location("~/a.parquet").path == str(tmp_path / "a.parquet")
    assert resolve_location(f"file://{tmp_path}/a.parquet").path == str(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["with space", "100%", "a#b", "q?x=1", "ds=2026-01-31", "ünï"])
def test_any_name_of_a_file_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    assert resolve_location(str(tmp_path / name)).path == str(tmp_path / name)


def test_places_are_joined_and_left(tmp_path: Path) -> None:
    location = resolve_location(tmp_path).join("ds=1", "a.parquet")
    assert location.path == f"{tmp_path}/ds=1/a.parquet"
    assert (location.name, location.parent.name) == ("a.parquet", "ds=1")
    assert str(location.parent.parent) == str(tmp_path)


def test_an_object_stores_url_keeps_its_form(object_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", object_store.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    bucket = object_store.bucket
    location = resolve_location(f"s3://{bucket}/lake/ds=1/")
    assert (location.path, location.is_local) == (f"{bucket}/lake/ds=1", False)
    assert location.url == f"s3://{bucket}/lake/ds=1"
    assert location.join("a.parquet").url == f"s3://{bucket}/lake/ds=1/a.parquet"
    assert location.parent.url == f"s3://{bucket}/lake"


def test_any_other_scheme_goes_through_fsspec() -> None:
    fsspec.filesystem("memory").pipe("/lake/a.txt", b"content")
    location = resolve_location("memory://lake/a.txt")
    assert not location.is_local
    with location.filesystem.open_input_stream(location.path) as stream:
        assert stream.read() == b"content"


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="path is empty"):
        resolve_location(path)


@pytest.mark.parametrize("url", ["nosuchscheme://bucket/a", "s3:///a"])
def test_a_url_that_nothing_understands_is_named(url: str) -> None:
    with pytest.raises((ConfigurationError, DependencyMissingError)) as caught:
        resolve_location(url)
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize("segment", ["city=New%20York", "city=New York", "a+b", "größe=1", "k=v;w"])
@pytest.mark.parametrize("query", ["", "?region=eu-west-1"])
def test_what_a_location_is_called_leads_to_it_again(segment: str, query: str) -> None:
    location = resolve_location(f"s3://bucket/table{query or '?region=us-east-1'}").join(segment, "part-0.parquet")
    again = resolve_location(location.address)
    assert again.path == location.path == f"bucket/table/{segment}/part-0.parquet"
    assert again.parent.address == location.parent.address
    assert location.url == f"s3://bucket/table/{segment}/part-0.parquet"
    assert location.parent.path == f"bucket/table/{segment}"


@pytest.mark.parametrize("segment", ["city=New%20York", "city=New York", "a#b", "100%", "q?x=1"])
@pytest.mark.parametrize("table", ["New York", "batch#2", "50%"])
def test_so_does_that_of_a_file_url(tmp_path: Path, table: str, segment: str) -> None:
    by_hand = resolve_location(f"file://{tmp_path}/{table.replace('%', '%25')}")
    by_pathlib = resolve_location((tmp_path / table).as_uri())
    assert by_hand.path == by_pathlib.path == str(tmp_path / table)
    for table_location in (by_hand, by_pathlib):
        location = table_location.join(segment, "a.parquet")
        assert location.path == str(tmp_path / table / segment / "a.parquet")
        assert resolve_location(location.address).path == location.path
        assert resolve_location(location.parent.parent.address).path == table_location.path


def test_credentials_in_a_url_are_refused_without_being_shown() -> None:
    with pytest.raises(ConfigurationError, match="holds a password or key") as caught:
        resolve_location("s3://AKIAKEY:SECRET@bucket/table")
    assert "SECRET" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


def test_an_airflow_connection_is_for_tasks() -> None:
    with pytest.raises(ConfigurationError, match="known only in a task"):
        resolve_location("s3://my_connection@bucket/table")


@pytest.mark.parametrize("url", ["s3://bucket//table", "s3://bucket/a//b.parquet?region=us-east-1"])
def test_a_key_that_arrow_cannot_open_is_refused_with_what_to_do(url: str) -> None:
    with pytest.raises(ConfigurationError, match="empty name between two slashes, which Arrow cannot open; move"):
        resolve_location(url)


def test_a_path_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"a\\udcff.parquet' is not UTF-8.*another name"):
        resolve_location(os.fsdecode(bytes(tmp_path) + b"/a\xff.parquet"))
