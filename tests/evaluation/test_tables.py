"""Reports, evaluations and comparisons of outputs that are tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import ClassifyJob, EmbedJob, GenerateJob, run_job
from airflow_mullama.errors import ConfigurationError, InputNotFoundError, InputUnreadableError
from airflow_mullama.evaluation.compare import compare
from airflow_mullama.evaluation.evaluate import evaluate
from airflow_mullama.evaluation.outputs import open_output
from airflow_mullama.evaluation.report import report
from airflow_mullama.evaluation.shares import counts_of

deltalake = pytest.importorskip("deltalake")
pytest.importorskip("pyiceberg")

from tests.storage.iceberg.catalogs import configure  # noqa: E402

DAYS = ("2026-01-01", "2026-01-02")
LABELS = ["billing", "shipping"]
ANSWERED = ("billing", "billing", "shipping", None)
EXPECTED = ("billing", "shipping", "shipping", "billing")


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Rows of two days, with the label that `echo` is to give, and the one that is expected."""
    for number, day in enumerate(DAYS):
        texts = [None if label is None else f'{{"label": "{label}"}}' for label in ANSWERED]
        kinds = [None if label is None else f'{{"kind": "{label}"}}' for label in ANSWERED]
        rows = {"id": [4 * number + row for row in range(4)], "text": texts, "kinds": kinds, "truth": EXPECTED}
        (tmp_path / "in" / f"ds={day}").mkdir(parents=True)
        pq.write_table(pa.table(rows), tmp_path / "in" / f"ds={day}" / "a.parquet")
    return tmp_path / "in"


@pytest.fixture(params=["delta", "iceberg"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The address of a table of either format."""
    if request.param == "delta":
        return lambda name: f"delta://{tmp_path}/tables/{name}"
    configure(monkeypatch, "shop", tmp_path / "catalog", f"file://{tmp_path}/warehouse")
    return lambda name: f"iceberg://shop/lake.{name}"


def labels_job() -> ClassifyJob:
    return ClassifyJob(
        model="echo", labels=LABELS, prompt_template="{text}", chat=False, max_error_ratio=1.0, max_retries=0
    )


def test_it_says_the_same_of_a_table_and_of_files(address: Callable[[str], str], lake: Path, tmp_path: Path) -> None:
    table, files = address("tagged"), tmp_path / "out"
    run_job(labels_job(), lake, table)
    run_job(labels_job(), lake, files)

    of_table, of_files = report(table), report(files)
    assert of_table.labels == of_files.labels == {"label": {"billing": 4, "shipping": 2}}
    assert of_table.manifest.status_counts == of_files.manifest.status_counts == {"success": 6, "skipped": 2}
    assert [row.place for row in of_table.random_rows] == [f"ds={day} {row}" for day in DAYS for row in range(4)]
    assert [counts_of(one) for one in open_output(table)] == [counts_of(one) for one in open_output(files)]

    found, same = evaluate(table, "truth"), evaluate(files, "truth")
    assert (found.rows, found.without_answer) == (8, 2)
    assert found.figures() == same.figures()

    compared = compare(table, table, expected="truth")
    assert compared.to_json()["rows"] == 8


def test_one_partition_by_its_address(address: Callable[[str], str], lake: Path) -> None:
    table = address("tagged")
    run_job(labels_job(), lake, table)

    found = report(f"{table}/ds={DAYS[1]}")

    assert found.manifest.rows_of_output == 4
    assert all(row.inputs["truth"] in LABELS for row in found.random_rows)
    with pytest.raises(InputNotFoundError, match="has no partition ds=2030-01-01"):
        report(f"{table}/ds=2030-01-01")


def test_two_tables_are_compared_partition_by_partition(address: Callable[[str], str], lake: Path) -> None:
    first, second = address("first"), address("second")
    run_job(EmbedJob(model="echo", text_column="text", engine_options={"dimensions": 4}), lake, first)
    run_job(EmbedJob(model="echo", text_column="text", engine_options={"dimensions": 4}), lake, second)

    assert compare(first, second).to_json()["cosine"]["least"] == pytest.approx(1.0)


def test_an_answer_of_a_few_values_is_counted_though_a_table_has_no_dictionaries(
    address: Callable[[str], str], lake: Path
) -> None:
    table = address("typed")
    schema = {"type": "object", "properties": {"kind": {"enum": LABELS}}, "required": ["kind"]}
    typed = GenerateJob(
        model="echo",
        prompt_column="kinds",
        output_schema=schema,
        max_error_ratio=1.0,
        max_retries=0,
        output_prefix="x_",
    )
    run_job(typed, lake, table)

    assert report(table).labels == {"kind": {"billing": 4, "shipping": 2}}


def test_rows_that_somebody_added_are_not_taken_for_answers(lake: Path, tmp_path: Path) -> None:
    table = f"delta://{tmp_path}/tagged"
    run_job(labels_job(), lake, table)
    deltalake.write_deltalake(
        str(tmp_path / "tagged"), pa.table({"id": [9], "ds": [DAYS[0]]}), mode="append", schema_mode="merge"
    )

    with pytest.raises(InputUnreadableError, match=r"ds=2026-01-01' was not published by this package, or rows were"):
        report(table)
    assert report(f"{table}/ds={DAYS[1]}").manifest.rows_of_output == 4


def test_an_older_state_and_no_table_are_said(lake: Path, tmp_path: Path) -> None:
    table = f"delta://{tmp_path}/tagged"
    with pytest.raises(InputNotFoundError, match="There is no table at"):
        report(table)
    run_job(labels_job(), lake, table)
    with pytest.raises(ConfigurationError, match="names a state of the table"):
        report(f"{table}?version=0")
