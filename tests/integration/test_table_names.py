"""What catalogues of lineage call a table, and a task that writes one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama.operators.lineage import dataset_name, operator_lineage, remember_locations, remember_schemas
from airflow_mullama.storage.places import table_of

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("delta:///lake/tickets/ds=2026-01-01", ("file", "/lake/tickets")),
        ("delta+s3://conn@bucket/lake/tickets/ds=1?version=3", ("s3://bucket", "lake/tickets")),
        ("iceberg://conn@shop/lake.tickets/ds=1?snapshot=3", ("iceberg://shop", "lake.tickets")),
    ],
)
def test_a_table_has_the_name_that_others_give_it(address: str, name: tuple[str, str]) -> None:
    assert dataset_name(table_of(address)) == name


def test_an_iceberg_table_is_also_known_by_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyiceberg")
    pytest.importorskip("airflow.providers.openlineage")
    from airflow_mullama import GenerateJob, run_job
    from airflow_mullama.hooks.filesystems import resolve_in_task
    from tests.storage.iceberg.catalogs import configure, days, partitioned_table

    catalog = configure(monkeypatch, "shop", tmp_path / "catalog", f"file://{tmp_path}/warehouse")
    partitioned_table(catalog, "lake.tickets", days("a", "b"))
    job = GenerateJob(model="echo", prompt_column="text")
    manifest = run_job(job, "iceberg://shop/lake.tickets", "iceberg://shop/lake.tagged")
    locations = remember_locations(manifest, resolve_in_task)
    lineage = operator_lineage(SimpleNamespace(manifest=manifest, lineage_locations=locations, max_error_ratio=0.1))
    for name, (dataset,) in (("lake.tickets", lineage.inputs), ("lake.tagged", lineage.outputs)):
        assert (dataset.namespace, dataset.name) == ("iceberg://shop", name)
        (other,) = dataset.facets["symlinks"].identifiers
        place = catalog.load_table(name).location().removeprefix("file://")
        assert (other.namespace, other.name, other.type) == ("file", place, "LOCATION")


def test_changed_partitions_of_a_table_are_mapped_and_told_of(run_dag: Callable[..., Any], tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    from airflow.sdk import DAG, Asset

    from airflow_mullama import GenerateJob, run_job
    from airflow_mullama.hooks.filesystems import resolve_in_task
    from airflow_mullama.operators import MullamaGenerateOperator, MullamaListPartitionsOperator

    rows = pa.table({"ds": ["a", "b"], "text": ["x", "y"]})
    deltalake.write_deltalake(f"{tmp_path}/tickets", rows, partition_by="ds")
    source, output = f"delta://{tmp_path}/tickets", f"delta://{tmp_path}/tagged"
    job = GenerateJob(model="echo", prompt_column="text")
    manifest = run_job(job, f"{source}/ds=a", output)
    schemas = remember_schemas(job, manifest, resolve_in_task)
    assert [name for name, _ in schemas["input"]] == ["ds", "text"]
    assert ("response", "string") in schemas["output"]
    with DAG("tables", schedule=None) as dag:
        listing = MullamaListPartitionsOperator(
            task_id="list", input_path=source, output_path=output, incremental="{{ True }}"
        )
        MullamaGenerateOperator.partial(
            task_id="tag", prompt_column="text", model="echo", outlets=[Asset("tagged")]
        ).expand_kwargs(listing.output)
    run = run_dag(dag)
    assert run.state == "success"
    (instance,) = run.get_task_instances() and [one for one in run.get_task_instances() if one.task_id == "tag"]
    pushed = instance.xcom_pull(task_ids="tag", map_indexes=0)
    assert pushed["output_path"] == f"{output}/ds=b"
    assert len(pa.table(deltalake.DeltaTable(f"{tmp_path}/tagged").scan())) == 2
