"""What may stand in a path or URL, and what is shown of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.storage.addresses import local_path, refuse_credentials, shown_address
from airflow_mullama.storage.filesystems import resolve_location
from airflow_mullama.storage.mapped_tasks import partition_name
from airflow_mullama.storage.places import place_of

SECRET = "S3cr3tKeyValue123"
WITH_A_SECRET = [
    f"s3://AKIAX:{SECRET}@bucket/key.parquet",
    f"s3://AKIAX:abc/{SECRET}+x@bucket/key.parquet",
    f"S3://AKIAX:{SECRET}@bucket/key.parquet",
    f"s3://AKIAX%3A{SECRET}@bucket/key.parquet",
    f"s3a://AKIAX:{SECRET}@bucket/key.parquet",
    f"gs://x:{SECRET}@bucket/key.parquet",
    f"abfs://container:{SECRET}@account.dfs.core.windows.net/key.parquet",
    f"abfs://:{SECRET}@account.blob.core.windows.net/container/key.parquet",
    f"abfss://c@a.dfs.core.windows.net/key.parquet?client_id=a&tenant_id=b&client_secret={SECRET}",
    f"abfss://c@a.dfs.core.windows.net/key.parquet?sv=2024&sig={SECRET}",
    f"s3://bucket/key.parquet?access_key=a&secret_key={SECRET}",
    f"s3://bucket/key.parquet?X-Amz-Signature={SECRET}",
    f"s3://bucket/key.parquet?{SECRET}",
    f"s3://bucket/key.parquet?endpoint_override=http://u:{SECRET}@127.0.0.1:9",
    f"s3://bucket/key.parquet?endpoint_override=http://u:{SECRET}%40127.0.0.1:9",
    f"hdfs://user:{SECRET}@127.0.0.1:9/key.parquet",
    f"ftp://user:{SECRET}@127.0.0.1:9/key.parquet",
    f"sftp://user:a/{SECRET}@127.0.0.1:9/key.parquet",
    f"smb://user:{SECRET}@127.0.0.1:9/x/key.parquet",
    f"http://user:{SECRET}@127.0.0.1:9/key.parquet",
    f"https://127.0.0.1:9/key.parquet?sig={SECRET}",
    f"https://127.0.0.1:9/key.parquet#{SECRET}",
    f"nosuch://u:{SECRET}@h/key.parquet",
    f"github://org:repo:{SECRET}@x/key.parquet",
    f"hf://datasets/u:{SECRET}@x/key.parquet",
]
SOUND = {
    "/data/lake/a@b:c?d#e.parquet": "/data/lake/a@b:c?d#e.parquet",
    "file:///data/a@b:c?d#e.parquet": "file:///data/a@b:c?d#e.parquet",
    "s3://bucket/2026-01-01T00:00:00/me@example.com.parquet": "s3://bucket/2026-01-01T00:00:00/me@example.com.parquet",
    "s3://my_connection@bucket/key": "s3://bucket/key",
    "s3://bucket/batch#2?scheme=http&endpoint_override=127.0.0.1:9000": "s3://bucket/batch#2",
    "abfss://container@account.dfs.core.windows.net/key": "abfss://container@account.dfs.core.windows.net/key",
    "hdfs://namenode:9000/user/me@here/x": "hdfs://namenode:9000/user/me@here/x",
    "hf://owner/repository@main/file.gguf": "hf://owner/repository@main/file.gguf",
}


@pytest.mark.parametrize("url", WITH_A_SECRET)
def test_a_url_with_a_secret_is_refused_and_shown_nowhere(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not shown") as of_input:
        resolve_location(url)
    with pytest.raises(ConfigurationError, match=r"The model .*not shown") as of_model:
        GenerateJob(model=url, prompt_column="text")
    said = [
        str(of_input.value), str(of_model.value), shown_address(url), repr(place_of(url)), partition_name([url, url])
    ]  # fmt: skip
    assert not [words for words in said if SECRET in words or "AKIAX" in words]


@pytest.mark.parametrize(("url", "shown"), SOUND.items())
def test_any_other_is_taken_and_shown_without_connection_and_query(url: str, shown: str) -> None:
    refuse_credentials(url, "The URL")
    assert shown_address(url) == shown


@given(
    st.sampled_from(["s3", "s3a", "gs", "abfss", "hdfs", "sftp", "http", "hf", "nosuch"]),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="@?#%"), min_size=1, max_size=40),
)
def test_whatever_stands_behind_a_users_colon_is_not_shown(scheme: str, password: str) -> None:
    url = f"{scheme}://user:{SECRET}{password}@host/key.parquet"
    with pytest.raises(ConfigurationError) as caught:
        refuse_credentials(url, "The URL")
    assert SECRET not in str(caught.value)
    assert SECRET not in shown_address(url)


def test_control_characters_are_written_out() -> None:
    assert shown_address("/data/\x1b[2J\n.parquet") == "/data/\\x1b[2J .parquet"
    assert shown_address("s3://bucket/\x9b31m") == "s3://bucket/\\x9b31m"


@pytest.mark.parametrize("name", ["plain", "New York", "batch#2", "a?b=c", "100%25", "größe", "%", "a%2Fb"])
def test_a_file_url_names_the_path_that_pathlib_wrote(tmp_path: Path, name: str) -> None:
    assert local_path((tmp_path / name).as_uri()) == str(tmp_path / name)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///data/batch#2", "/data/batch#2"),
        ("file:///data/a?b", "/data/a?b"),
        ("file:///data/50% off", "/data/50% off"),
        ("file://localhost/data/a%20b", "/data/a b"),
        ("FILE:///data", "/data"),
        ("/data/a%20b", "/data/a%20b"),
    ],
)
def test_one_written_by_hand_names_what_it_seems_to(url: str, path: str) -> None:
    assert local_path(url) == path


@pytest.mark.parametrize("url", ["file://data/a.parquet", "file://a.parquet"])
def test_a_file_of_another_host_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="with three slashes"):
        local_path(url)
