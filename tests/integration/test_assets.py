"""What an operator says of its outlets, inside real Airflow."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

START = datetime.datetime(2026, 11, 1, tzinfo=datetime.timezone.utc)


def asset_events(run: Any) -> list[Any]:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(AssetEvent).where(AssetEvent.source_run_id == run.run_id, AssetEvent.source_dag_id == run.dag_id)
        return list(session.scalars(query).all())


def days(tmp_path: Path, write_parquet: Any) -> str:
    for day in (1, 2):
        write_parquet(tmp_path / "in" / f"ds=2026-11-0{day}" / "a.parquet", ["x"] * day)
    return str(tmp_path / "in")


def operator(tmp_path: Path, write_parquet: Any, **arguments: Any) -> Any:
    from airflow_mullama.operators import MullamaGenerateOperator

    return MullamaGenerateOperator(
        task_id="job",
        input_path=days(tmp_path, write_parquet),
        output_path=str(tmp_path / "out"),
        prompt_column="text",
        model="echo",
        **arguments,
    )


def test_the_event_of_an_outlet_carries_the_manifest(
    run_dag: Callable[..., Any], tmp_path: Path, write_parquet: Any
) -> None:
    from airflow.sdk import DAG, Asset, AssetAlias

    with DAG("outlet_with_manifest", schedule=None, start_date=START) as dag:
        operator(tmp_path, write_parquet, outlets=[Asset("generated_rows"), AssetAlias("left_alone")])
    run = run_dag(dag)
    assert run.state == "success"
    (event,) = asset_events(run)
    assert event.extra["manifest"]["status_counts"] == {"success": 3}
    assert event.extra["partition_count"] == 2
    assert [one["partition_key"] for one in event.extra["partitions"]] == ["2026-11-01", "2026-11-02"]
    assert [one["rows"] for one in event.extra["partitions"]] == [1, 2]
    assert getattr(event, "partition_key", None) is None


def test_partitions_are_announced_where_the_dag_leaves_them_to_its_tasks(
    run_dag: Callable[..., Any], tmp_path: Path, write_parquet: Any
) -> None:
    sdk = pytest.importorskip("airflow.sdk")
    if not hasattr(sdk, "PartitionedAtRuntime"):
        pytest.skip("Airflow 3.3 and newer have partitions that are known at runtime")
    with sdk.DAG("outlet_with_partitions", schedule=sdk.PartitionedAtRuntime(), start_date=START) as dag:
        operator(tmp_path, write_parquet, outlets=[sdk.Asset("generated_partitions")])
    events = asset_events(run_dag(dag))
    assert sorted(event.partition_key for event in events) == ["2026-11-01", "2026-11-02"]
    assert {event.extra["manifest"]["rows"] for event in events} == {3}


def test_a_task_without_outlets_says_nothing(run_dag: Callable[..., Any], tmp_path: Path, write_parquet: Any) -> None:
    from airflow.sdk import DAG

    with DAG("no_outlets", schedule=None, start_date=START) as dag:
        operator(tmp_path, write_parquet)
    run = run_dag(dag)
    assert run.state == "success"
    assert asset_events(run) == []


def test_outlets_that_are_no_assets_are_passed_by(airflow_home: Path) -> None:
    from airflow_mullama.operators.assets import describe_outlets

    class Table:
        """As OpenLineage's own entities, which Airflow allows among outlets."""

    describe_outlets({"outlet_events": {}}, [Table()], None)  # type: ignore[arg-type]
