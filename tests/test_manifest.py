from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from airflow_mullama import __version__
from airflow_mullama.manifest import (
    PartitionManifest,
    Seconds,
    account_within,
    merge_manifests,
    summarize_manifests,
)
from airflow_mullama.writer import Writer


def manifest(**changes: Any) -> PartitionManifest:
    values: dict[str, Any] = {
        "task": "generate",
        "input_path": "/lake/in/ds=2026-01-01/part-0.parquet",
        "output_path": "/lake/out/ds=2026-01-01/part-0.parquet",
        "engine": "echo",
        "engine_version": "1",
        "model": "echo",
        "model_sha256": "ab" * 32,
        "fingerprint": "cd" * 32,
        "status_counts": {"success": 7, "failed": 1, "invalid_output": 1, "skipped": 1},
        "error_types": {"engine_error": 1, "invalid_json": 1, "null_input": 1},
        "attempts": 12,
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "computed_rows": 5,
        "resumed_rows": 5,
        "repaired_rows": 0,
        "seconds": Seconds(total=9.5, model_load=2.0, waiting_for_input=0.5, engine=4.0, writing=1.0),
        "bytes_in": 1000,
        "bytes_out": 2000,
        "started_at": "2026-01-02T00:00:00.000+00:00",
        "ended_at": "2026-01-02T00:00:09.500+00:00",
    }
    return PartitionManifest(**{**values, **changes})


def test_it_survives_json_unchanged() -> None:
    one = manifest()
    assert PartitionManifest.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_several_survive_json_with_their_partitions() -> None:
    both = merge_manifests([manifest(), manifest(status_counts={"success": 20})])
    assert PartitionManifest.from_json(json.loads(json.dumps(both.to_json()))) == both


def test_a_later_version_with_more_keys_can_still_be_read() -> None:
    value = manifest().to_json()
    value["colour"] = "blue"
    value["seconds"]["tokenizing"] = 0.1
    assert PartitionManifest.from_json(value) == manifest()


def test_json_holds_versions_rates_and_no_partitions_of_a_single_one() -> None:
    value = manifest().to_json()
    assert value["manifest_version"] == 1
    assert value["package_version"] == __version__
    assert value["rows_per_second"] == pytest.approx(5 / 4.0)
    # One of ten rows was skipped: the tokens are those of nine, five of which were computed in this attempt.
    assert value["tokens_per_second"] == pytest.approx(120 * 5 / 9 / 4.0, abs=0.01)
    assert "partitions" not in value


def test_no_time_in_the_engine_is_no_rate_rather_than_an_error() -> None:
    value = manifest(seconds=Seconds(), status_counts={}, computed_rows=0).to_json()
    assert (value["rows_per_second"], value["tokens_per_second"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    "damage",
    [
        {"rows": 11},
        {"status_counts": {"success": 11}},
        {"status_counts": [10]},
        {"status_counts": 10},
        {"error_types": {"timeout": "often"}},
        {"attempts": "12"},
    ],
)
def test_an_account_that_contradicts_itself_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r" is |accounted for"):
        PartitionManifest.from_json({**manifest().to_json(), **damage})


def test_a_footer_also_holds_the_input_and_the_writer_and_xcom_does_not() -> None:
    one = manifest(input_location="file:///lake/in", writer=Writer("nightly", "tag", 3))
    assert PartitionManifest.from_footer(one.to_footer()) == one
    assert not {"input_location", "writer"} & set(one.to_json())


@pytest.mark.parametrize(
    "footer",
    [
        b"\xff",
        b"[]",
        b"5",
        b"null",
        b"[" * 100_000,
        b'{"seconds":' * 100_000,
        *(
            json.dumps({**manifest().to_json(), **damage}).encode()
            for damage in (
                {"task": None},
                {"fingerprint": 5},
                {"bytes_in": "many"},
                {"seconds": {"total": "long"}},
                {"seconds": [1]},
                {"writer": {"task_id": 5}},
                {"writer": "me"},
                {"input_location": {}},
                {"output_schema": "none"},
                {"partitions": [manifest().to_json()]},
            )
        ),
    ],
)
def test_a_footer_that_is_no_account_is_refused(footer: bytes) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        PartitionManifest.from_footer(footer)


def test_up_to_date_keeps_the_account_and_says_that_nothing_was_computed() -> None:
    one = manifest().as_up_to_date()
    assert one.skipped == "up_to_date"
    assert (one.computed_rows, one.resumed_rows, one.repaired_rows) == (0, 0, 0)
    assert (one.rows, one.status_counts, one.fingerprint) == (10, manifest().status_counts, "cd" * 32)


def test_a_sum_adds_counts_tokens_bytes_and_seconds() -> None:
    second = manifest(
        input_path="/lake/in/ds=2026-01-02/part-0.parquet",
        output_path="/lake/out/ds=2026-01-02/part-0.parquet",
        status_counts={"success": 10},
        error_types={},
        started_at="2026-01-02T00:01:00.000+00:00",
        ended_at="2026-01-02T00:02:00.000+00:00",
    )
    both = merge_manifests([manifest(), second])
    assert both.rows == 20
    assert both.status_counts == {"success": 17, "failed": 1, "invalid_output": 1, "skipped": 1}
    assert both.error_types == {"engine_error": 1, "invalid_json": 1, "null_input": 1}
    assert (both.attempts, both.prompt_tokens, both.completion_tokens) == (24, 200, 40)
    assert (both.computed_rows, both.resumed_rows) == (10, 10)
    assert (both.bytes_in, both.bytes_out) == (2000, 4000)
    assert both.seconds == Seconds(total=19.0, model_load=4.0, waiting_for_input=1.0, engine=8.0, writing=2.0)
    assert (both.started_at, both.ended_at) == ("2026-01-02T00:00:00.000+00:00", "2026-01-02T00:02:00.000+00:00")
    assert (both.input_path, both.output_path) == ("/lake/in", "/lake/out")
    assert [one.rows for one in both.partitions] == [10, 10]
    assert sum(both.status_counts.values()) == both.rows


def test_a_sum_is_up_to_date_only_if_every_partition_is() -> None:
    done = manifest().as_up_to_date()
    assert merge_manifests([done, done]).skipped == "up_to_date"
    assert merge_manifests([done, manifest()]).skipped is None


def test_the_footer_is_the_json() -> None:
    one = replace(manifest(), model="ünïcode 🧾")
    assert PartitionManifest.from_json(json.loads(one.to_footer())) == one


def many(count: int) -> list[PartitionManifest]:
    """Of which every hundredth has failed rows, the later ones more."""
    return [
        manifest(
            input_path=f"/lake/in/part={number:04d}/a.parquet",
            status_counts={"success": 1, **({"failed": number + 1} if number % 100 == 99 else {})},
            error_types={"engine_error": number + 1} if number % 100 == 99 else {},
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_an_account_has_as_many_partitions_as_there_is_room_for_and_counts_all(count: int) -> None:
    whole = merge_manifests(many(count)) if count > 1 else many(1)[0]
    account = account_within(whole, 64_000)
    assert len(json.dumps(account)) <= 64_000
    assert account["rows"] == whole.rows
    assert account.get("partition_count", 1) == count
    assert summarize_manifests(account)["partition_count"] == count
    assert summarize_manifests([account, None, account])["rows"] == 2 * whole.rows
    if count < 1000:
        assert account == whole.to_json()
        return
    listed = [one["input_path"] for one in account["partitions"]]
    assert listed == sorted(listed)
    assert len(listed) > 40
    assert {f"/lake/in/part={number:04d}/a.parquet" for number in range(99, 1000, 100)} < set(listed)


def test_an_account_without_room_for_a_partition_still_has_the_sums() -> None:
    account = account_within(merge_manifests(many(100)), 10)
    assert (account["partitions"], account["partition_count"], account["rows"]) == ([], 100, 200)


def test_a_sum_of_sums_counts_every_partition() -> None:
    sums = [summarize_manifests(account_within(merge_manifests(many(count)), 2_000)) for count in (150, 250)]
    assert summarize_manifests(sums)["partition_count"] == 400
