"""Uploads in parts that a killed attempt never ended: found by the next one, and aborted if they are ours."""

from __future__ import annotations

import dataclasses
import datetime
import signal
import subprocess
import sys
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from airflow_mullama import GenerateJob, run_partition
from airflow_mullama.storage.staging import dead_uploads
from airflow_mullama.storage.staging.dead_uploads import DeadUploads
from tests.latency_proxy import LatencyProxy

pytestmark = pytest.mark.integration

JOB = GenerateJob(model="echo", prompt_template="{text}")
# More than PyArrow keeps until it sends a part.
UPLOAD = """
import sys
import pyarrow.fs as pafs
endpoint, *paths = sys.argv[1:]
filesystem = pafs.S3FileSystem(access_key="test", secret_key="test", endpoint_override=endpoint, region="us-east-1")
streams = [filesystem.open_output_stream(path) for path in paths]
for stream in streams:
    stream.write(b"rows" * (3 << 20))
print("uploading", flush=True)
sys.stdin.read()
"""


class Attempts:
    """What attempts at one output leave in a bucket."""

    def __init__(self, object_store: Any) -> None:
        boto3 = pytest.importorskip("boto3")
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        self.store = object_store
        self.client = boto3.client("s3", endpoint_url=object_store.endpoint, **keys)
        self.source, self.target = object_store.url("in", "day.parquet"), object_store.url("out", "day.parquet")
        object_store.write(self.source, pa.table({"text": ["a", "b"]}))

    def killed_while_it_uploads(self, *keys: str) -> None:
        paths = [f"{self.store.bucket}/{key}" for key in keys]
        command = [sys.executable, "-c", UPLOAD, self.store.endpoint, *paths]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.readline() == "uploading\n"
            process.send_signal(signal.SIGKILL)
        assert self.uploads() == sorted(keys)

    def stage_left(self, name: str) -> None:
        self.client.put_object(Bucket=self.store.bucket, Key=f"out/_mullama_stage/day.parquet/{name}", Body=b"rows")

    def uploads(self) -> list[str]:
        found = self.client.list_multipart_uploads(Bucket=self.store.bucket).get("Uploads", [])
        return sorted(upload["Key"] for upload in found)

    def run(self) -> None:
        run_partition(JOB, self.source, self.target, resolver=self.store.resolve, listeners=[])


@pytest.fixture
def attempts(object_store: Any) -> Attempts:
    return Attempts(object_store)


def test_the_next_attempt_aborts_what_a_killed_one_began_to_upload_and_nobody_elses(attempts: Attempts) -> None:
    ours = ["out/day.parquet", "out/_mullama_stage/day.parquet/0123456789abcdef/rows-000000000000-000000001000.arrow"]
    others = [
        "in/day.parquet", "out/day.parquet2", "out/other.parquet", "out/_mullama_stage/day.parquet2/0123/rows.arrow",
    ]  # fmt: skip
    attempts.killed_while_it_uploads(*ours, *others)
    attempts.stage_left("0123456789abcdef/rows-000000000000-000000000002.arrow")
    attempts.run()
    assert attempts.uploads() == sorted(others)


def test_an_upload_that_may_be_of_a_living_attempt_is_left_until_the_output_is_published(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_uploads, "DEAD_AFTER", datetime.timedelta(days=36_500))  # the server's are of 2010
    attempts.killed_while_it_uploads("out/day.parquet")
    output = attempts.store.resolve(attempts.target)
    uploads = DeadUploads(output, output.parent.join("_mullama_stage", "day.parquet"))
    uploads.look()
    assert attempts.uploads() == ["out/day.parquet"]
    uploads.abort_rest()
    assert attempts.uploads() == []


def test_uploads_are_looked_for_only_where_an_attempt_has_left_something(object_store: Any) -> None:
    with LatencyProxy(object_store.endpoint.removeprefix("http://")) as proxy:
        filesystem = pafs.S3FileSystem(
            access_key="test", secret_key="test", endpoint_override=proxy.endpoint, region="us-east-1"
        )
        attempts = Attempts(dataclasses.replace(object_store, filesystem=filesystem))
        attempts.run()
        assert proxy.counts()["LIST"]
        assert not proxy.counts()["LIST UPLOADS"]
        attempts.stage_left("0123456789abcdef/rows-000000000000-000000000002.arrow")
        attempts.client.delete_object(Bucket=object_store.bucket, Key="out/day.parquet")
        attempts.run()
        assert proxy.counts()["LIST UPLOADS"] == 2
