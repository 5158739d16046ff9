"""Evaluating and gating inside Airflow. (Where a person is asked, a real scheduler is needed: see test_scheduler.)"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.integration

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


@pytest.fixture
def gated(airflow_home: Path, run_dag: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Answer a sample, evaluate it, and let a last task run if the gate lets it."""
    source = tmp_path / "sample.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c", "d"], "truth": ["a", "b", "c", "x"]}), source)

    def run(dag_id: str, **gate: Any) -> dict[str, str]:
        from airflow.providers.standard.operators.empty import EmptyOperator
        from airflow.sdk import DAG

        from airflow_mullama.operators import MullamaEvaluateOperator, MullamaGateOperator, MullamaGenerateOperator

        with DAG(dag_id, schedule=None, start_date=START, params={"least": 0.5}) as dag:
            answered = MullamaGenerateOperator(
                task_id="answer",
                input_path=str(source),
                output_path=str(tmp_path / "out.parquet"),
                prompt_column="text",
                model="echo",
            )
            evaluation = MullamaEvaluateOperator(
                task_id="evaluate", output_path=str(tmp_path / "out.parquet"), expected="truth"
            )
            gate_task = MullamaGateOperator(task_id="gate", evaluation=evaluation.output, **gate)
            answered >> evaluation >> gate_task >> EmptyOperator(task_id="backfill")
        return {one.task_id: one.state for one in run_dag(dag).get_task_instances()}

    return run


def test_what_is_good_enough_passes_and_is_kept(gated: Callable[..., Any], tmp_path: Path) -> None:
    accepted = tmp_path / "accepted.json"

    states = gated("gate_passes", thresholds={"exact_match": "{{ params.least }}"}, accepted_path=str(accepted))

    assert set(states.values()) == {"success"}
    assert json.loads(accepted.read_text())["answers"]["response"]["exact_match"]["value"] == 0.75


def test_what_is_not_good_enough_stops_the_run(gated: Callable[..., Any], tmp_path: Path) -> None:
    accepted = tmp_path / "accepted.json"

    states = gated("gate_fails", thresholds={"exact_match": 0.8}, accepted_path=str(accepted))

    assert (states["evaluate"], states["gate"], states["backfill"]) == ("success", "failed", "upstream_failed")
    assert not accepted.exists()


def test_a_regression_is_stopped_before_the_week(
    shipped_dag: Callable[[str], Any], run_dag: Callable[..., Any], tmp_path: Path
) -> None:
    from airflow_mullama.demo.tickets.generate import HELD_OUT_SEED, generate_tickets

    tickets = list(generate_tickets(120, seed=HELD_OUT_SEED))
    labelled = pa.table({"text": [one.text for one in tickets], "true_category": [one.category for one in tickets]})
    (tmp_path / "labelled").mkdir()
    pq.write_table(labelled, tmp_path / "labelled" / "a.parquet")
    for day in ("2026-03-02", "2026-03-03"):
        (tmp_path / "tickets" / f"ds={day}").mkdir(parents=True)
        pq.write_table(labelled.slice(0, 10), tmp_path / "tickets" / f"ds={day}" / "a.parquet")
    conf = {name: str(tmp_path / name) for name in ("labelled", "sample", "tickets", "tagged")}
    conf["sample_rows"] = 60

    good = run_dag(shipped_dag("guarded_backfill"), conf=conf)

    assert good.state == "success"
    accepted = (tmp_path / "tagged" / "_accepted.json").read_bytes()
    outputs = sorted((tmp_path / "tagged").rglob("*.parquet"))
    written = [path.read_bytes() for path in outputs]
    assert len(outputs) == 2

    cut_off = run_dag(shipped_dag("guarded_backfill"), conf={**conf, "max_tokens": 6})

    states = {one.task_id: one.state for one in cut_off.get_task_instances()}
    assert (states["evaluate"], states["gate"], states["partitions"]) == ("success", "failed", "upstream_failed")
    assert [path.read_bytes() for path in outputs] == written
    assert (tmp_path / "tagged" / "_accepted.json").read_bytes() == accepted


def test_the_summary_warns_where_a_days_labels_are_not_what_they_were(
    airflow_home: Path, run_dag: Callable[..., Any], tmp_path: Path
) -> None:
    from airflow.sdk import DAG

    from airflow_mullama.operators import MullamaClassifyOperator, MullamaSummaryOperator
    from tests.integration.test_dags import manifests

    def run(number: int, labels: list[str]) -> list[dict[str, Any]]:
        source = tmp_path / f"in-{number}.parquet"
        pq.write_table(pa.table({"text": [f'{{"label": "{label}"}}' for label in labels]}), source)
        with DAG(f"shares_{number}", schedule=None, start_date=START) as dag:
            tagged = MullamaClassifyOperator(
                task_id="tag",
                input_path=str(source),
                output_path=str(tmp_path / f"out-{number}.parquet"),
                model="echo",
                labels=["a", "b"],
                prompt_template="{text}",
                chat=False,
            )
            MullamaSummaryOperator(
                task_id="summary", manifests=tagged.output, accepted_path=str(tmp_path / "accepted.json")
            )
        done = run_dag(dag)
        assert done.state == "success"
        (summary,) = manifests(done, "summary")
        found: list[dict[str, Any]] = summary["differences"]
        return found

    assert run(1, ["a"] * 60 + ["b"] * 40) == []
    accepted = (tmp_path / "accepted.json").read_bytes()
    moved = run(2, ["a"] * 20 + ["b"] * 80)
    assert [(one["value"], one["share"], one["accepted"]) for one in moved] == [("a", 0.2, 0.6), ("b", 0.8, 0.4)]
    assert (tmp_path / "accepted.json").read_bytes() == accepted
