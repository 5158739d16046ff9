"""Where a task's links lead: to its output, and to its tab."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

# Operators that have no manifest to show in the tab.
WITHOUT_NUMBERS = {"MullamaEvaluateOperator", "MullamaGateOperator", "MullamaListPartitionsOperator"}

S3 = "https://s3.console.aws.amazon.com/s3"
GCS = "https://console.cloud.google.com/storage/browser"


@pytest.fixture(autouse=True)
def _home(airflow_home: Path) -> None:
    """The configuration is Airflow's."""


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("/lake/ds=1/my rows.parquet", "file:///lake/ds=1/my%20rows.parquet"),
        ("s3://c@b/t/ds=1/x.parquet", f"{S3}/object/b?prefix=t%2Fds%3D1%2Fx.parquet"),
        ("s3://b/t", f"{S3}/buckets/b?prefix=t%2F"),
        ("gs://b/t/x.parquet", f"{GCS}/_details/b/t/x.parquet"),
        ("gs://b/t", f"{GCS}/b/t"),
        ("abfss://c@a.dfs.core.windows.net/t", ""),
    ],
)
def test_a_store_has_its_own_console(path: str, address: str) -> None:
    from airflow_mullama.operators.links import output_link

    assert output_link(path) == address


def test_a_template_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_mullama.operators.links import output_link

    monkeypatch.setenv("AIRFLOW__MULLAMA__OUTPUT_LINK", "https://minio/{scheme}/{bucket}/{path}?of={url}")
    assert output_link("s3://b/a b/x") == "https://minio/s3/b/a%20b/x?of=s3%3A//b/a%20b/x"


def test_a_template_without_meaning_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow_mullama.operators.links import output_link

    monkeypatch.setenv("AIRFLOW__MULLAMA__OUTPUT_LINK", "https://minio/{folder}")
    assert output_link("/x") == "file:///x"
    assert "it may have {url}, {scheme}, {bucket} and {path}" in caplog.text


@pytest.mark.parametrize(
    ("map_index", "address"),
    [
        (-1, "dags/a%20b/runs/manual__2026-11-23T10%3A00%3A00%2B00%3A00/tasks/group.t%2F1/plugin/mullama"),
        (4, "dags/a%20b/runs/manual__2026-11-23T10%3A00%3A00%2B00%3A00/tasks/group.t%2F1/mapped/4/plugin/mullama"),
    ],
)
def test_a_task_leads_to_its_tab(map_index: int, address: str) -> None:
    from airflow.models.taskinstancekey import TaskInstanceKey

    from airflow_mullama.operators.links import MullamaTabLink

    key = TaskInstanceKey("a b", "group.t/1", "manual__2026-11-23T10:00:00+00:00", 1, map_index)
    assert MullamaTabLink().get_link(None, ti_key=key) == address


def test_every_operator_with_numbers_has_the_tab() -> None:
    from airflow_mullama import operators

    for name in set(operators.__all__) - WITHOUT_NUMBERS:
        assert "Mullama" in [link.name for link in getattr(operators, name).operator_extra_links], name


def test_the_tab_knows_every_operator_with_numbers_by_its_name() -> None:
    from airflow_mullama import operators
    from airflow_mullama.decorators import tasks
    from airflow_mullama.plugin.application import PAGES

    pattern = re.search(r"const OPERATORS = /(.*)/;", (PAGES / "manifest.js").read_text())
    assert pattern is not None
    names = set(operators.__all__) - WITHOUT_NUMBERS
    names |= {one.custom_operator_name for one in vars(tasks).values() if hasattr(one, "custom_operator_name")}
    assert len(names) >= 6
    assert [name for name in sorted(names) if not re.search(pattern[1], name)] == []
