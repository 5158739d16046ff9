"""The example alerts and the dashboard: each metric in them is one that a task sends, through Airflow's own client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from airflow_mullama import GenerateJob, run_job
from airflow_mullama.errors import MullamaError
from airflow_mullama.manifest import INPUT_MISSING, Seconds
from airflow_mullama.rows import ErrorType, Status
from tests.documentation import DOCS, REPOSITORY, anchors, names_in_first_column, tables
from tests.integration.statsd_listener import StatsdListener

pytest.importorskip("statsd", reason="the package statsd is not installed")
pytestmark = pytest.mark.integration

ALERTS = DOCS / "monitoring" / "alerts.yaml"
DASHBOARD = DOCS / "monitoring" / "grafana-dashboard.json"
# Sent by Airflow itself: test_scheduler.py sees it for a task that failed.
OF_AIRFLOW = {"airflow_operator_failures": "counter", "airflow_ti_finish": "counter"}
KINDS = {"c": "counter", "g": "gauge", "ms": "summary"}
LAST = "everything_was_sent"


@pytest.fixture(scope="module")
def listener() -> Iterator[StatsdListener]:
    with StatsdListener() as listener:
        yield listener


@pytest.fixture(scope="module")
def sent(listener: StatsdListener, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All that a task may send, by the name and kind that statsd_exporter makes of it without a mapping of its own.

    Dots become underscores, and a timer becomes a summary in seconds.
    """
    from airflow.sdk.observability import stats
    from airflow.sdk.observability.metrics.stats_utils import get_stats_factory

    from airflow_mullama.operators.metrics import send_metrics

    folder = tmp_path_factory.mktemp("monitored")
    (folder / "in.jsonl").write_text('{"text": "a"}\n')
    job = GenerateJob(model="echo", prompt_template="{text}")
    one = run_job(job, folder / "in.jsonl", folder / "out")
    everything = replace(
        one,
        status_counts={status.value: 1 for status in Status},
        error_types={error_type.value: 1 for error_type in ErrorType},
        computed_rows=len(Status),
        prompt_tokens=100,
        completion_tokens=100,
        deduplicated_rows=1,
        cached_prompt_tokens=1,
    )
    partitions = (everything, *(replace(one, skipped=skipped) for skipped in ("up_to_date", INPUT_MISSING)))
    whole = replace(everything, partitions=partitions, seconds=Seconds(engine=1.0, model_load=1.0, waiting_for_gpu=1.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
        patch.setenv("AIRFLOW__METRICS__STATSD_PORT", str(listener.port))
        patch.setenv("AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED", "True")
        client = get_stats_factory()()
        stats.initialize(factory=lambda: client, export_legacy_names=False)
        send_metrics({"ti": SimpleNamespace(dag_id="d", task_id="t")}, whole)
        stats.incr(LAST)
    stats.initialize(factory=get_stats_factory(), export_legacy_names=True)
    client.statsd.close()
    listener.wait_for(f"airflow.{LAST}")
    found = {}
    for line in listener.lines():
        name, *tags = line.partition(":")[0].split(",")
        if name != f"airflow.{LAST}":
            assert sorted(tags) == ["dag_id=d", "task_id=t"]
            found[re.sub(r"\W", "_", name)] = KINDS[line.rpartition("|")[2]]
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text())["panels"])


def expressions() -> list[str]:
    return [rule["expr"] for rule in rules()] + [target["expr"] for panel in panels() for target in panel["targets"]]


def series(sent: dict[str, str]) -> dict[str, str]:
    """What a query may name: of a summary its sum and its count, which only grow."""
    found = {name: kind for name, kind in {**sent, **OF_AIRFLOW}.items() if kind != "summary"}
    for name in (name for name, kind in sent.items() if kind == "summary"):
        found.update({f"{name}_sum": "counter", f"{name}_count": "counter"})
    return found


def test_every_metric_that_is_asked_for_is_one_that_is_sent(sent: dict[str, str]) -> None:
    named = {name for text in expressions() for name in re.findall(r"\b(?:airflow_|mullama:)[\w:]+", text)}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert named - set(series(sent)) == recorded


def test_only_what_grows_is_asked_for_its_increase(sent: dict[str, str]) -> None:
    increasing = {name for text in expressions() for name in re.findall(r"increase\((\w+)", text)}
    assert {name for name in increasing if series(sent)[name] != "counter"} == set()
    everywhere = {name for text in expressions() for name in re.findall(r"\bairflow_\w+", text)}
    assert {series(sent)[name] for name in everywhere - increasing} == {"gauge"}


def test_every_label_that_is_asked_for_is_a_tag() -> None:
    recorded = {label for rule in rules() if "record" in rule for label in rule["labels"]}
    matched = {label for text in expressions() for label in re.findall(r'(\w+)\s*[=!]~?"', text)}
    grouped = {
        label for text in expressions() for names in re.findall(r"by \(([^)]*)\)", text) for label in names.split(", ")
    }
    assert matched | grouped <= {"dag_id", "task_id", "operator_name", "state", *recorded}


def test_failures_are_counted_of_every_operator_and_decorator() -> None:
    import airflow_mullama.operators as operators
    from airflow_mullama.decorators import mullama_embed_task, mullama_generate_task

    decorated = [
        mullama_generate_task(rules, output_path="out", prompt_column="text")().operator,
        mullama_embed_task(rules, output_path="out", text_column="text")().operator,
    ]
    patterns = {pattern for text in expressions() for pattern in re.findall(r'operator_name=~"([^"]*)"', text)}
    assert patterns
    for name in (*operators.__all__, *(type(operator).__name__ for operator in decorated)):
        assert all(re.fullmatch(pattern, name) for pattern in patterns), name


def test_every_alert_says_what_to_do_and_where_that_is_written() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len({alert["alert"] for alert in alerts}) == len(alerts) > 5
    for alert in alerts:
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert alert["annotations"].keys() == {"summary", "action"}
        for page, heading in re.findall(r"(docs/[\w.]+\.md)(?:, '([^']+)')?", alert["annotations"]["action"]):
            assert (REPOSITORY / page).exists()
            assert not heading or heading.lower().replace(" ", "-") in anchors(REPOSITORY / page)


def test_the_dashboard_shows_every_error_type() -> None:
    shown = {name for text in expressions() for name in re.findall(r"airflow_mullama_errors_(\w+)", text)}
    assert {error_type.value for error_type in ErrorType} - shown == {ErrorType.NULL_INPUT.value}


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    taken = [
        (column, row)
        for place in (panel["gridPos"] for panel in panels())
        for column in range(place["x"], place["x"] + place["w"])
        for row in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(column for column, _ in taken) < 24
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_the_page_says_of_every_failure_what_to_do() -> None:
    from airflow_mullama.operators.base import NOT_RETRIED

    def below(error: type[MullamaError]) -> set[type[MullamaError]]:
        return {one for direct in error.__subclasses__() for one in (direct, *below(direct))}

    failures = {error.__name__: error for error in below(MullamaError) if error.__module__ == MullamaError.__module__}
    page = DOCS / "operations.md"
    assert sorted(names_in_first_column(page, "error")) == sorted(failures)
    (table,) = (table for table in tables(page) if table[0][0] == "error")
    for names, _, retried, remedy in table[1:]:
        final = {issubclass(failures[name], NOT_RETRIED) for name in re.findall(r"`(\w+)`", names)}
        assert final == {retried == "no"}, names
        assert remedy


def test_the_page_says_of_every_error_type_what_to_do() -> None:
    listed = names_in_first_column(DOCS / "operations.md", "error_type")
    assert sorted(listed) == sorted(error_type.value for error_type in ErrorType)


def test_the_page_lists_every_alert() -> None:
    alerts = [rule["alert"] for rule in rules() if "alert" in rule]
    assert sorted(names_in_first_column(DOCS / "operations.md", "alert")) == sorted(alerts)


def test_the_page_lists_every_metric(sent: dict[str, str]) -> None:
    assert sorted(names_in_first_column(DOCS / "operations.md", "in Prometheus")) == sorted(sent)
