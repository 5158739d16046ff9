"""The DAG of many partitions past one machine, while everything around it fails; ``make distributed`` runs it.

Nothing is staged for a fault: each comes when the run is so far, whatever the two hosts do just then.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.demo.tickets import generate_tickets
from airflow_mullama.manifest import FOOTER_KEY
from tests.distributed.services import find_program

MISSING = [
    *(name for name in ("redis-server", "postgres", "initdb") if find_program(name) is None),
    *(name for name in ("celery", "psycopg2", "redis") if importlib.util.find_spec(name) is None),
]
pytestmark = [
    pytest.mark.integration,
    pytest.mark.distributed,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(MISSING), reason=f"there is no {', '.join(MISSING)} here (make distributed)"),
]

PARTITIONS, TASKS = 64, 16
FIRST_DAY = datetime.date(2026, 3, 2)
RUN = ("many_partitions", "run")
# How long a step of the run may take on a machine that others use too.
PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Lake:
    """A bucket that keeps every version of an object, on an S3 API server."""

    endpoint: str
    bucket: str
    rows: int
    client: Any

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def outputs(self) -> list[str]:
        return [key for key in self.keys("tickets_tagged_all/") if is_output(key)]

    def versions(self, prefix: str) -> Iterator[tuple[str, pa.Table]]:
        """What was ever there, under its key."""
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=prefix)
        for page in pages:
            for entry in page.get("Versions", ()):
                if is_output(entry["Key"]):
                    yield entry["Key"], self.read(entry["Key"], entry["VersionId"])

    def read(self, key: str, version: str | None = None) -> pa.Table:
        return self._open(key, version).read()

    def manifest(self, key: str) -> dict[str, Any]:
        """What an output's footer says of it."""
        return dict(json.loads(self._open(key).metadata.metadata[FOOTER_KEY]))

    def _open(self, key: str, version: str | None = None) -> pq.ParquetFile:
        chosen = {} if version is None else {"VersionId": version}
        body = self.client.get_object(Bucket=self.bucket, Key=key, **chosen)["Body"].read()
        return pq.ParquetFile(pa.BufferReader(body))


def is_output(key: str) -> bool:
    return key.endswith(".parquet") and "/_" not in key


def write_lake(endpoint: str) -> Lake:
    """64 days of tickets, of very different size."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    bucket = "lake-of-two-hosts"
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    rng, rows = random.Random(1), 0
    for number in range(PARTITIONS):
        texts = [ticket.text for ticket in generate_tickets(rng.randint(5, 40), seed=number)]
        ids = pa.array(range(rows, rows + len(texts)), pa.int64())
        rows += len(texts)
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.table({"ticket_id": ids, "text": texts}), buffer)
        key = f"tickets/ds={FIRST_DAY + datetime.timedelta(number)}/tickets.parquet"
        client.put_object(Bucket=bucket, Key=key, Body=buffer.getvalue().to_pybytes())
    return Lake(endpoint, bucket, rows, client)


@pytest.fixture
def lake(_object_store_server: str, caplog: pytest.LogCaptureFixture) -> Lake:
    caplog.set_level(logging.WARNING, logger="werkzeug")  # which tells of thousands of requests
    return write_lake(_object_store_server)


def assert_summed_up(lake: Lake, account: dict[str, Any]) -> None:
    """The summary's account, from its XCom, is that of all rows."""
    assert (account["partition_count"], account["rows"], account["missing_count"]) == (PARTITIONS, lake.rows, 0)
    assert sum(account["status_counts"].values()) == lake.rows


def assert_every_row_once(lake: Lake, status_counts: dict[str, int]) -> None:
    """Each output has its input's rows, and its own manifest says what is in it."""
    inputs = {key.split("/")[1]: lake.read(key) for key in lake.keys("tickets/")}
    outputs = {key: lake.read(key) for key in lake.outputs()}
    assert sorted(key.split("/")[1] for key in outputs) == sorted(inputs)
    statuses: Counter[str] = Counter()
    for key, table in outputs.items():
        source = inputs[key.split("/")[1]]
        assert table.select(source.column_names).equals(source), key
        manifest = lake.manifest(key)
        counts = Counter(table["status"].to_pylist())
        assert (manifest["rows"], manifest["status_counts"]) == (source.num_rows, counts), key
        assert manifest["output_path"].endswith(key), key
        statuses += counts
    assert statuses == status_counts
    ids = [number for table in outputs.values() for number in table["ticket_id"].to_pylist()]
    assert sorted(ids) == list(range(lake.rows))


def assert_nothing_at_odds(lake: Lake) -> None:
    """An output that several attempts published was the same each time: the bucket keeps all versions."""
    versions: dict[str, list[pa.Table]] = {}
    for key, table in lake.versions("tickets_tagged_all/"):
        versions.setdefault(key, []).append(table)
    assert sorted(versions) == sorted(lake.outputs())
    for key, (latest, *others) in versions.items():
        assert all(table.equals(latest) for table in others), f"{key} was published twice, at odds"
    print(f"outputs that were published more than once: {sum(len(tables) > 1 for tables in versions.values())}")  # noqa: T201


def assert_nothing_left(lake: Lake) -> None:
    """No staged rows, no unfinished upload: only empty keys with a slash at their end, Arrow's directories."""
    left = set(lake.keys("tickets_tagged_all/")) - set(lake.outputs())
    assert [key for key in left if not key.endswith("/")] == []
    assert "Uploads" not in lake.client.list_multipart_uploads(Bucket=lake.bucket)


def test_faults_cost_attempts_and_nothing_else(tmp_path: Path, lake: Lake) -> None:
    from tests.distributed.faulty_store import FaultyStore
    from tests.distributed.fleet import GPU_QUEUE, Fleet
    from tests.distributed.services import wait_for

    with FaultyStore(lake.endpoint) as store:
        environment = {
            "AIRFLOW_MULLAMA_LAKE": f"s3://{lake.bucket}",
            "AWS_ENDPOINT_URL": store.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with Fleet(tmp_path, environment) as fleet:

            def wait(condition: Callable[[], Any], what: str) -> Any:
                return wait_for(condition, what, PATIENCE_SECONDS)

            def published(count: int) -> None:
                wait(lambda: len(lake.outputs()) >= count, f"{count} partitions")
                fleet.say(f"{len(lake.outputs())} partitions are published")

            def ended_attempts() -> int:
                return int(str(fleet.query("SELECT count(*) FROM task_instance_history WHERE task_id = 'tag'")[0][0]))

            def requeued() -> int:
                return fleet.scheduler.text().count("Task stuck in queued; will try to requeue")

            last_day = FIRST_DAY + datetime.timedelta(PARTITIONS - 1)
            fleet.client.trigger(*RUN, {"last_day": str(last_day), "max_tasks": TASKS})

            published(4)
            # There are more tasks than both workers take at once: later none may be waiting.
            wait(lambda: fleet.queues().llen(GPU_QUEUE), "a message in the queue")
            queued_again = requeued()
            fleet.redis.kill()
            fleet.redis.start()
            fleet.say("the broker was killed, and has forgotten everything")

            # Meanwhile the run goes on: what was lost is missed only later.
            published(12)
            fleet.say("the S3 server answers nothing but 503")
            before = ended_attempts()
            store.is_down = True
            wait(lambda: ended_attempts() > before, "an attempt that fails of it")
            store.is_down = False
            fleet.say(f"the S3 server is back: {store.fates()}")

            published(24)
            host = fleet.workers[1]
            wait(lambda: any("airflow_mullama.worker" in process.cmdline() for process in host.members()), "an engine")
            killed = host.kill()
            fleet.say(f"{host.name} was killed: {killed} processes")
            host.start()

            published(36)
            wait(fleet.running_tasks, "a running task")
            before = ended_attempts()
            fleet.api_server.kill()
            fleet.say("the API server was stopped")
            wait(lambda: ended_attempts() > before, "an attempt that is given up as it cannot say that it lives")
            fleet.api_server.start()
            fleet.say("the API server was started again")

            wait(lambda: fleet.client.run_state(*RUN) in ("success", "failed"), "the end of the run")
            fleet.say(f"the run has ended: {fleet.client.run_state(*RUN)}; {store.fates()}")
            queued_again = requeued() - queued_again
            fleet.say(f"tasks that the scheduler missed, and queued again: {queued_again}")
            instances = fleet.client.task_instances(*RUN)
            fleet.say(f"attempts of the tasks: {[instance.try_number for instance in instances]}")
            assert {instance.state for instance in instances} == {"success"}
            (summary,) = [instance for instance in instances if instance.task_id == "summary"]
            account = fleet.client.xcom(*RUN, summary)
            redelivered = sum(worker.text().count("Task already running elsewhere") for worker in fleet.workers)
            fleet.say(f"messages handed to a second worker while the first ran: {redelivered}")
            text = "\n".join(path.read_text(errors="replace") for path in fleet.task_logs())
            leased = Counter(re.findall(r"computing on GPU (\d)", text))
            fleet.say(f"leases of each GPU: {dict(leased)}")

        # Every fault was there.
        assert killed > 3  # the worker, its pool, a task and its engine
        assert redelivered > 0
        assert queued_again > 0
        assert set(store.fates()) == {"503", "answered", "reset", "reset after"}
        assert leased.keys() == {"0", "1"}
        assert [service.name for service in fleet.services if service.members()] == []

    assert_summed_up(lake, account)
    assert_every_row_once(lake, account["status_counts"])
    assert_nothing_at_odds(lake)
    assert_nothing_left(lake)
