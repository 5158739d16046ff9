"""Tables opened with an Airflow connection that their address names."""

from __future__ import annotations

import importlib
import json
import logging
import os
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.hooks.filesystems import resolve_in_task
from airflow_mullama.storage.partitions import discover_partitions
from tests.storage.iceberg.catalogs import configure, days, partitioned_table

deltalake = pytest.importorskip("deltalake")


@pytest.mark.integration
def test_a_delta_table_is_read_with_the_keys_of_the_connection(
    object_store: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    extra = {"endpoint_url": object_store.endpoint, "region_name": "us-east-1"}
    connection = {"conn_type": "aws", "login": "test", "password": "a-secret-of-the-lake", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", json.dumps(connection))
    options = {"aws_endpoint_url": object_store.endpoint, "aws_allow_http": "true", "aws_region": "us-east-1"}
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    rows = pa.table({"id": [1, 2], "ds": ["a", "b"]})
    deltalake.write_deltalake(object_store.url("t"), rows, partition_by="ds", storage_options={**options, **keys})
    address = object_store.url("t").replace("s3://", "delta+s3://lake@")
    with caplog.at_level(logging.DEBUG):
        found = discover_partitions(address, tmp_path / "out", resolve_in_task)
        assert [one.open().rows for one in found] == [1, 1]
    assert found[0].input.address == f"{address}/ds=a"
    assert "lake@" not in found[0].input.url
    assert "a-secret-of-the-lake" not in repr(found) + caplog.text


def test_an_iceberg_catalog_is_described_by_the_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pyiceberg")
    catalog = configure(monkeypatch, "shop", tmp_path / "catalog", f"file://{tmp_path}/warehouse")
    partitioned_table(catalog, "lake.tickets", days("a", "b"))
    extra = {**catalog.properties, "token": "a-secret-of-the-catalog"}
    monkeypatch.setenv("AIRFLOW_CONN_CATALOG", json.dumps({"conn_type": "iceberg", "extra": extra}))
    for name in [name for name in os.environ if name.startswith("PYICEBERG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", importlib.import_module("pyiceberg.utils.config").Config())
    with caplog.at_level(logging.DEBUG):
        found = discover_partitions("iceberg://catalog@shop/lake.tickets", tmp_path / "out", resolve_in_task)
        assert [one.open().rows for one in found] == [3, 3]
    assert "a-secret-of-the-catalog" not in repr(found) + caplog.text
    monkeypatch.setenv("AIRFLOW_CONN_EMPTY", json.dumps({"conn_type": "iceberg", "login": "a", "password": "b"}))
    with pytest.raises(ConfigurationError, match="'empty' describes no catalog"):
        resolve_in_task("iceberg://empty@shop/lake.tickets")


def test_a_connection_that_is_missing_or_logs_in_by_a_role_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"There is no connection 'nowhere', which .*'delta\+s3://b/t' names"):
        resolve_in_task("delta+s3://nowhere@b/t")
    connection = {"conn_type": "aws", "extra": {"role_arn": "arn:aws:iam::1:role/reader"}}
    monkeypatch.setenv("AIRFLOW_CONN_BY_ROLE", json.dumps(connection))
    with pytest.raises(ConfigurationError, match="has 'role_arn', and tables are opened with a key alone"):
        resolve_in_task("delta+s3://by_role@b/t")
    with pytest.raises(ConfigurationError, match="known of S3 alone"):
        resolve_in_task("delta+gs://by_role@b/t")
