"""How many requests a partition costs on an object store, each of which takes it tens of milliseconds."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from airflow_mullama import GenerateJob, run_job
from airflow_mullama.storage.filesystems import Location, resolve_location
from airflow_mullama.storage.mapped_tasks import list_partitions
from airflow_mullama.storage.staging.stage import Stage
from tests.latency_proxy import LatencyProxy

pytestmark = pytest.mark.integration

JOB = GenerateJob(model="echo", prompt_template="{text}", chunk_rows=500, chunk_seconds=3600)


@pytest.fixture
def proxy(object_store: Any) -> Iterator[LatencyProxy]:
    with LatencyProxy(object_store.endpoint.removeprefix("http://")) as proxy:
        yield proxy


@pytest.fixture
def resolve(proxy: LatencyProxy) -> Callable[[str | os.PathLike[str]], Location]:
    filesystem = proxy.filesystem()

    def resolve(url: str | os.PathLike[str]) -> Location:
        text = os.fspath(url)
        if not text.startswith("s3://"):
            return resolve_location(text)
        return Location(filesystem, text.removeprefix("s3://").rstrip("/"), text.rstrip("/"))

    return resolve


def test_a_partition_costs_few_requests_however_many_columns_and_row_groups_it_has(
    object_store: Any, proxy: LatencyProxy, resolve: Callable[[str], Location]
) -> None:
    columns = {f"column {number}": [os.urandom(40).hex() for _ in range(3000)] for number in range(20)}
    table = pa.table({"text": [f"ticket {number}" for number in range(3000)], **columns})
    source, target = object_store.url("in", "day.parquet"), object_store.url("out", "day.parquet")
    pq.write_table(table, source.removeprefix("s3://"), filesystem=object_store.filesystem, row_group_size=500)
    proxy.requests.clear()
    manifest = run_job(JOB, source, target, resolver=resolve, listeners=[])
    assert manifest.status_counts["success"] == 3000
    counts = proxy.counts()
    # The footer when it is opened, read, written and looked at once more; six row groups of one column, and of all.
    assert counts["GET"] <= 4 + 6 + 2 * 6
    assert counts["LIST"] <= 8
    # Before each of six chunks another attempt is looked for.
    assert counts["HEAD"] <= 16 + 6
    # A chunk is one request, as are the probe and the output; the rest is Arrow's own marks of folders.
    assert counts["PUT"] <= 6 + 2 + 3
    assert not {"CREATE", "PART", "COMPLETE"} & counts.keys()


def test_an_unchanged_partition_is_known_by_its_footer(
    object_store: Any, proxy: LatencyProxy, resolve: Callable[[str], Location]
) -> None:
    source, target = object_store.url("in", "day.parquet"), object_store.url("out", "day.parquet")
    object_store.write(source, pa.table({"text": ["a", "b"]}))
    run_job(JOB, source, target, resolver=resolve, listeners=[])
    proxy.requests.clear()
    assert run_job(JOB, source, target, resolver=resolve, listeners=[]).skipped == "up_to_date"
    assert proxy.counts()["GET"] == 2
    assert sum(proxy.counts().values()) <= 16


def test_files_are_listed_a_thousand_at_once_and_none_is_looked_at(
    object_store: Any, proxy: LatencyProxy, resolve: Callable[[str], Location], tmp_path: Path
) -> None:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    keys = [f"lake/ds={number // 50:03d}/part-{number:05d}.parquet" for number in range(2500)]
    for key in keys:  # as clients would put them, in a tenth of the time
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(object_store.bucket, key, b"PAR1 and so on")
    found = list_partitions(object_store.url("lake"), object_store.url("out"), max_tasks=5, resolver=resolve)
    assert [len(task["input_path"]) for task in found] == [10] * 5
    counts = proxy.counts()
    # The directory itself is looked for, and whether a table format keeps it.
    assert counts.pop("LIST") <= 3 + 4
    assert counts.pop("HEAD") <= 1
    assert not counts


def test_the_partitions_of_a_task_are_listed_side_by_side(object_store: Any) -> None:
    days = [object_store.url("in", f"ds={number}") for number in range(8)]
    for day in days:
        object_store.write(f"{day}/part.parquet", pa.table({"text": ["a"]}))
    # One after the other, the second would wait for the first without end.
    with LatencyProxy(object_store.endpoint.removeprefix("http://"), together=len(days)) as proxy:
        filesystem = pafs.S3FileSystem(
            access_key="test", secret_key="test", endpoint_override=proxy.endpoint, region="us-east-1"
        )

        def resolve(url: str | os.PathLike[str]) -> Location:
            return Location(filesystem, os.fspath(url).removeprefix("s3://"), os.fspath(url))

        assert len(list_partitions(days, object_store.url("out"), resolver=resolve)) == len(days)


def test_the_next_partition_is_made_ready_while_one_is_published(
    object_store: Any, proxy: LatencyProxy, resolve: Callable[[str], Location], monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [object_store.url("in", f"ds={number}") for number in range(3)]
    for number, day in enumerate(days):
        object_store.write(f"{day}/part.parquet", pa.table({"text": [f"{number}"]}))
    opened_by = []
    open_stage = Stage.open

    def noted(stage: Stage) -> None:
        opened_by.append(threading.current_thread().name)
        open_stage(stage)

    monkeypatch.setattr(Stage, "open", noted)
    manifest = run_job(JOB, days, object_store.url("out"), resolver=resolve, listeners=[])
    assert opened_by == ["MainThread", "mullama-prepare", "mullama-prepare"]
    assert manifest.status_counts["success"] == 3
    files = [file for file in object_store.objects(object_store.url("out")) if not file.endswith("/")]
    assert files == [f"{object_store.bucket}/out/ds={number}/part-00000.parquet" for number in range(3)]
