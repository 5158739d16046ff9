"""Listing, mapping and summing up inside real Airflow, by ``dag.test()``."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.integration

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
DAYS = [f"2026-01-0{day}" for day in range(1, 6)]
ROWS = 10


@pytest.fixture
def lake(tmp_path: Path, write_parquet: Callable[..., Path]) -> Path:
    for day in DAYS:
        write_parquet(tmp_path / "lake" / f"ds={day}" / "a.parquet", [f"{day} {row}" for row in range(ROWS)])
    return tmp_path / "lake"


@pytest.fixture
def new_dag(airflow_home: Path, request: pytest.FixtureRequest) -> Callable[[], Any]:
    """A DAG named after the test."""
    count = 0

    def make() -> Any:
        nonlocal count
        from airflow.sdk import DAG

        count += 1
        name = "".join(character if character.isalnum() else "_" for character in request.node.name)
        return DAG(f"{name}_{count}", schedule=None, start_date=START)

    return make


@pytest.fixture
def pipeline(new_dag: Callable[[], Any], run_dag: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Run a listing, mapped generation and a summary; each argument is of the operator it is named after."""

    def run(listing: dict[str, Any], *, generate: Any = None, summary: Any = None, conf: Any = None) -> Any:
        from airflow_mullama.operators import (
            MullamaGenerateOperator,
            MullamaListPartitionsOperator,
            MullamaSummaryOperator,
        )

        with new_dag() as dag:
            listed = MullamaListPartitionsOperator(
                task_id="partitions", **{"output_path": str(tmp_path / "out"), **listing}
            )
            answered = MullamaGenerateOperator.partial(
                **{
                    "task_id": "job",
                    "map_index_template": "{{ partition }}",
                    "prompt_column": "text",
                    "model": "echo",
                    "max_retries": 0,
                    **(generate or {}),
                }
            ).expand_kwargs(listed.output)
            MullamaSummaryOperator(task_id="summary", manifests=answered.output, **(summary or {}))
        return run_dag(dag, conf)

    return run


def states(run: Any) -> dict[tuple[str, int], str]:
    return {(one.task_id, one.map_index): one.state for one in run.get_task_instances()}


def xcom(run: Any, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
    """What a task left."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(XComModel.value).where(
            XComModel.dag_id == run.dag_id,
            XComModel.run_id == run.run_id,
            XComModel.task_id == task_id,
            XComModel.key == key,
            XComModel.map_index == map_index,
        )
        value = session.scalars(query).one()
    return json.loads(value) if isinstance(value, str) else value


def written(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.rglob("*.parquet"))


def test_partitions_of_a_range_are_grouped_named_and_summed_up(
    pipeline: Callable[..., Any], lake: Path, tmp_path: Path
) -> None:
    run = pipeline(
        {
            "input_path": "{{ dag_run.conf['lake'] }}",
            "where": {"ds": {"from": "{{ dag_run.conf['from'] }}", "to": "2026-01-04"}},
            "max_tasks": "{{ 2 }}",
            "balance": "rows",
        },
        conf={"lake": str(lake), "from": "2026-01-02"},
    )
    assert run.state == "success"
    assert written(tmp_path / "out") == [f"ds={day}" for day in DAYS[1:4]]
    names = {one.map_index: one.rendered_map_index for one in run.get_task_instances() if one.task_id == "job"}
    assert names == {0: "ds=2026-01-02, ds=2026-01-04", 1: "ds=2026-01-03"}
    summary = xcom(run, "summary")
    assert (summary["rows"], summary["partition_count"]) == (3 * ROWS, 3)
    assert (summary["missing_count"], summary["missing"], summary["skipped_count"]) == (0, [], 0)


@pytest.mark.parametrize("decorated", [False, True])
def test_a_mapped_task_has_its_partitions_name_while_it_computes(
    new_dag: Callable[[], Any],
    run_dag: Callable[..., Any],
    lake: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    decorated: bool,
) -> None:
    import airflow_mullama.run
    from airflow_mullama.decorators import mullama_generate_task
    from airflow_mullama.operators import MullamaGenerateOperator

    names = {}
    run_job = airflow_mullama.run.run_job

    def look_and_run(*arguments: Any, **keywords: Any) -> Any:
        map_index = keywords["writer"].map_index
        names[map_index] = named(run_dag_id, map_index)
        return run_job(*arguments, **keywords)

    monkeypatch.setattr(airflow_mullama.run, "run_job", look_and_run)
    arguments = {
        "map_index_template": "{{ partition }}",
        "output_path": str(tmp_path / "out"),
        "prompt_column": "text",
        "model": "echo",
    }
    days = [str(lake / f"ds={day}") for day in DAYS[:2]]
    with new_dag() as dag:
        if decorated:
            mullama_generate_task(task_id="job", **arguments)(lambda day: day).expand(day=days)
        else:
            MullamaGenerateOperator.partial(task_id="job", **arguments).expand(input_path=days)
    run_dag_id = dag.dag_id
    assert run_dag(dag).state == "success"
    assert names == {0: "ds=2026-01-01", 1: "ds=2026-01-02"}


def named(dag_id: str, map_index: int) -> str | None:
    """What Airflow's database calls a mapped task."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(TaskInstance).where(TaskInstance.dag_id == dag_id, TaskInstance.map_index == map_index)
        return session.scalars(query).one().rendered_map_index


def test_one_task_of_many_partitions_leaves_a_manifest_of_bounded_size(
    new_dag: Callable[[], Any], run_dag: Callable[..., Any], tmp_path: Path, write_parquet: Any
) -> None:
    from airflow_mullama.operators import MullamaGenerateOperator, MullamaSummaryOperator

    for number in range(90):
        write_parquet(tmp_path / "many" / f"part={number:02d}" / "a.parquet", ["a row"])
    with new_dag() as dag:
        answered = MullamaGenerateOperator(
            task_id="job",
            input_path=str(tmp_path / "many"),
            output_path=str(tmp_path / "out"),
            prompt_column="text",
            model="echo",
        )
        MullamaSummaryOperator(task_id="summary", manifests=answered.output)
    run = run_dag(dag)
    manifest, summary = xcom(run, "job"), xcom(run, "summary")
    assert len(json.dumps(manifest)) <= 64_000
    assert 0 < len(manifest["partitions"]) < manifest["partition_count"] == 90
    assert (summary["rows"], summary["partition_count"], summary["missing_count"]) == (90, 90, 0)


def test_the_function_can_be_called_by_taskflow(
    new_dag: Callable[[], Any], run_dag: Callable[..., Any], lake: Path, tmp_path: Path
) -> None:
    from airflow.sdk import task

    from airflow_mullama import list_partitions
    from airflow_mullama.operators import MullamaGenerateOperator

    with new_dag() as dag:
        listed = task(list_partitions)(
            str(lake), output=str(tmp_path / "out"), where={"ds": "{{ dag_run.conf['day'] }}"}, max_tasks=1
        )
        MullamaGenerateOperator.partial(task_id="job", prompt_column="text", model="echo").expand_kwargs(listed)
    assert run_dag(dag, {"day": "2026-01-03"}).state == "success"
    assert written(tmp_path / "out") == ["ds=2026-01-03"]


def test_airflows_own_limit_of_mapped_tasks_is_kept(
    pipeline: Callable[..., Any], lake: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, capfd: Any
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "2")
    run = pipeline({"input_path": str(lake)})
    assert run.state == "success"
    assert len(xcom(run, "partitions")) == 2
    assert xcom(run, "summary")["rows"] == len(DAYS) * ROWS
    assert "[core] max_map_length is 2" in capfd.readouterr().out + caplog.text


@pytest.mark.parametrize(
    ("if_input_missing", "expected"),
    [
        ("fail", {"partitions": "failed", "job": "upstream_failed", "summary": "failed"}),
        ("skip", {"partitions": "skipped", "job": "skipped", "summary": "success"}),
        ("empty", {"partitions": "success", "job": "skipped", "summary": "success"}),
    ],
)
def test_a_day_without_data_is_a_failure_or_no_work(
    pipeline: Callable[..., Any], lake: Path, if_input_missing: str, expected: dict[str, str]
) -> None:
    run = pipeline({"input_path": str(lake), "where": {"ds": "2026-02-01"}, "if_input_missing": if_input_missing})
    assert {task_id: state for (task_id, _), state in states(run).items()} == expected
    if if_input_missing == "fail":
        assert run.state == "failed"
        assert xcom(run, "summary", "summary")["missing"] == ["job"]
    else:
        assert run.state == "success"
        assert xcom(run, "summary") == {
            "partition_count": 0,
            "missing_count": 0,
            "missing": [],
            "skipped_count": 1,
        }


@pytest.mark.parametrize(
    ("listing", "sentence"),
    [
        ({"where": {"dt": "2026-01-01"}}, "where names 'dt'"),
        ({"where": {"ds": {"since": "2026-01-01"}}}, "or a range"),
        ({"max_tasks": "many"}, "max_tasks is 'many'"),
        ({"balance": "size"}, "balance is 'size'"),
        ({"if_input_missing": "ignore"}, "if_input_missing is 'ignore'"),
    ],
)
def test_a_listing_that_can_never_work_is_not_retried(
    pipeline: Callable[..., Any], lake: Path, listing: dict[str, Any], sentence: str, caplog: Any, capfd: Any
) -> None:
    run = pipeline({"input_path": str(lake), "retries": 3, **listing})
    assert states(run)["partitions", -1] == "failed"  # and not up_for_retry
    assert sentence in capfd.readouterr().out + caplog.text


@pytest.mark.parametrize(("max_missing", "state"), [(0, "failed"), (1, "success")])
def test_a_task_that_failed_is_missing_and_the_run_is_not_green_by_itself(
    pipeline: Callable[..., Any], lake: Path, max_missing: int, state: str
) -> None:
    (lake / "ds=2026-01-03" / "a.parquet").write_bytes(b"PAR1 this is no Parquet file PAR1")
    run = pipeline({"input_path": str(lake)}, summary={"max_missing": max_missing, "retries": 2})
    assert states(run)["job", 2] == "failed"
    assert states(run)["summary", -1] == run.state == state
    summary = xcom(run, "summary", "return_value" if state == "success" else "summary")
    assert (summary["missing_count"], summary["missing"]) == (1, ["job[2]"])
    assert (summary["rows"], summary["partition_count"]) == (4 * ROWS, 4)


def test_rows_of_a_task_over_its_own_budget_count_although_it_is_missing(
    pipeline: Callable[..., Any], lake: Path
) -> None:
    run = pipeline(
        {"input_path": str(lake), "where": {"ds": DAYS[:2]}},
        generate={"engine_options": {"faults": {"fail": [1, 2]}}, "max_error_ratio": 0.1},
        summary={"max_missing": 5, "max_error_ratio": 0.3},
    )
    assert states(run)["job", 0] == states(run)["job", 1] == "failed"
    summary = xcom(run, "summary")
    assert (summary["missing_count"], summary["rows"]) == (2, 2 * ROWS)
    assert summary["error_types"] == {"engine_error": 4}
    assert run.state == "success"  # because max_missing says so


@pytest.mark.parametrize(("max_error_ratio", "state"), [(0.1, "failed"), (0.2, "success"), (None, "success")])
def test_the_budget_of_the_whole(
    pipeline: Callable[..., Any], lake: Path, max_error_ratio: Any, state: str, caplog: Any, capfd: Any
) -> None:
    run = pipeline(
        {"input_path": str(lake), "where": {"ds": DAYS[:2]}},
        generate={"engine_options": {"faults": {"fail": [1, 2]}}, "max_error_ratio": 1.0},
        summary={"max_error_ratio": max_error_ratio},
    )
    assert run.state == state
    if state == "failed":
        sentence = "4 of 20 rows of all 2 partition(s) failed (4 engine_error), which is more than max_error_ratio=0.1"
        assert sentence in capfd.readouterr().out + caplog.text


@pytest.mark.parametrize(
    "arguments", [{"max_missing": -1}, {"max_error_ratio": 2}, {"max_error_ratio": "{{ 'most' }}"}]
)
def test_a_budget_that_is_none_is_named(
    pipeline: Callable[..., Any], lake: Path, arguments: dict[str, Any], caplog: Any, capfd: Any
) -> None:
    run = pipeline({"input_path": str(lake), "where": {"ds": DAYS[0]}}, summary=arguments)
    assert run.state == "failed"
    ((name, value),) = arguments.items()
    value = "most" if isinstance(value, str) else value
    assert f"{name} is {value!r}; it must be a" in capfd.readouterr().out + caplog.text


def test_a_summary_of_several_tasks_mapped_or_not(
    new_dag: Callable[[], Any], run_dag: Callable[..., Any], lake: Path, tmp_path: Path
) -> None:
    from airflow_mullama.operators import MullamaEmbedOperator, MullamaGenerateOperator, MullamaSummaryOperator

    day = str(lake / "ds=2026-01-01")
    with new_dag() as dag:
        answered = MullamaGenerateOperator(
            task_id="job", input_path=day, output_path=str(tmp_path / "out"), prompt_column="text", model="echo"
        )
        embedded = MullamaEmbedOperator.partial(
            task_id="embed", output_path=str(tmp_path / "vectors"), text_column="text", model="echo"
        ).expand(input_path=[str(lake / f"ds={one}") for one in (*DAYS[:2], "2026-02-01")])
        MullamaSummaryOperator(task_id="summary", manifests=[answered.output, embedded.output], max_missing=1)
    run = run_dag(dag)
    assert run.state == "success"
    summary = xcom(run, "summary")
    assert (summary["rows"], summary["partition_count"]) == (3 * ROWS, 3)
    assert summary["missing"] == ["embed[2]"]


@pytest.mark.parametrize("failed", ["tag_1", "tag[1]"])
def test_a_failed_task_is_missing_also_where_airflow_has_one_name_for_two(
    new_dag: Callable[[], Any], run_dag: Callable[..., Any], lake: Path, tmp_path: Path, failed: str
) -> None:
    """Airflow calls the state of index 1 of the mapped task `tag` as it calls that of a task `tag_1`."""
    from airflow_mullama.operators import MullamaGenerateOperator, MullamaSummaryOperator

    days = {one: str(lake / f"ds={day}") for one, day in zip(("tag[0]", "tag[1]", "tag_1"), DAYS, strict=False)}
    days[failed] = str(lake / "ds=2026-02-01")
    with new_dag() as dag:
        mapped = MullamaGenerateOperator.partial(
            task_id="tag", output_path=str(tmp_path / "tag"), prompt_column="text", model="echo"
        ).expand(input_path=[days["tag[0]"], days["tag[1]"]])
        plain = MullamaGenerateOperator(
            task_id="tag_1",
            input_path=days["tag_1"],
            output_path=str(tmp_path / "tag_1"),
            prompt_column="text",
            model="echo",
        )
        MullamaSummaryOperator(task_id="summary", manifests=[mapped.output, plain.output])
    run = run_dag(dag)
    assert run.state == "failed"
    assert xcom(run, "summary", "summary")["missing"] == [failed]


def test_a_task_that_leaves_no_manifest_is_missing(
    new_dag: Callable[[], Any], run_dag: Callable[..., Any], lake: Path, tmp_path: Path
) -> None:
    from airflow_mullama.operators import MullamaGenerateOperator, MullamaSummaryOperator

    arguments = {"prompt_column": "text", "model": "echo", "do_xcom_push": False}
    with new_dag() as dag:
        plain = MullamaGenerateOperator(
            task_id="plain", input_path=str(lake / "ds=2026-01-01"), output_path=str(tmp_path / "plain"), **arguments
        )
        mapped = MullamaGenerateOperator.partial(
            task_id="mapped", output_path=str(tmp_path / "mapped"), **arguments
        ).expand(input_path=[str(lake / f"ds={day}") for day in DAYS[1:3]])
        MullamaSummaryOperator(task_id="of_plain", manifests=plain.output)
        MullamaSummaryOperator(task_id="of_mapped", manifests=mapped.output)
    run = run_dag(dag)
    assert states(run)["plain", -1] == states(run)["mapped", 1] == "success"
    assert xcom(run, "of_plain", "summary")["missing"] == ["plain"]
    assert xcom(run, "of_mapped", "summary")["missing"] == ["mapped[0]", "mapped[1]"]


def test_what_is_no_manifest_is_not_counted_as_nothing(
    new_dag: Callable[[], Any], run_dag: Callable[..., Any], caplog: Any, capfd: Any
) -> None:
    from airflow.sdk import task

    from airflow_mullama.operators import MullamaSummaryOperator

    with new_dag() as dag:
        reference = task(task_id="reference")(lambda: "s3://xcoms/of/a/backend.json")
        MullamaSummaryOperator(task_id="summary", manifests=[reference()])
    assert run_dag(dag).state == "failed"
    assert "manifests holds something that is no manifest" in capfd.readouterr().out + caplog.text


@pytest.mark.parametrize(
    ("if_input_missing", "state", "skipped"),
    [("fail", "failed", None), ("skip", "skipped", None), ("empty", "success", "input_missing")],
)
def test_an_operator_without_input_fails_is_skipped_or_ends_with_an_empty_manifest(
    new_dag: Callable[[], Any],
    run_dag: Callable[..., Any],
    tmp_path: Path,
    started_workers: Any,
    if_input_missing: str,
    state: str,
    skipped: str | None,
) -> None:
    from airflow_mullama.operators import MullamaGenerateOperator

    with new_dag() as dag:
        MullamaGenerateOperator(
            task_id="job",
            input_path=str(tmp_path / "lake" / "ds=2026-02-01"),
            output_path=str(tmp_path / "out"),
            prompt_column="text",
            model="echo",
            if_input_missing=if_input_missing,
        )
    run = run_dag(dag)
    assert states(run)["job", -1] == state
    assert len(started_workers) == 0
    assert not (tmp_path / "out").exists()
    if skipped:
        manifest = xcom(run, "job")
        assert (manifest["rows"], manifest["skipped"], manifest["status_counts"]) == (0, skipped, {})


def test_of_a_list_the_inputs_that_are_there_are_processed(
    new_dag: Callable[[], Any], run_dag: Callable[..., Any], lake: Path, tmp_path: Path
) -> None:
    from airflow_mullama.operators import MullamaGenerateOperator

    with new_dag() as dag:
        MullamaGenerateOperator(
            task_id="job",
            input_path=[str(lake / "ds=2026-01-01"), str(lake / "ds=2026-02-01")],
            output_path=str(tmp_path / "out"),
            prompt_column="text",
            model="echo",
            if_input_missing="skip",
        )
    run = run_dag(dag)
    assert xcom(run, "job")["rows"] == ROWS
    assert written(tmp_path / "out") == ["ds=2026-01-01"]


@pytest.mark.parametrize(
    ("first", "second", "allowed"),
    [
        ("out", "out/vectors", False),
        ("out/deep/er", "out", False),
        ("out", "out_vectors", True),
        ("out", "out/ds=2026-01-01", True),
        ("out", "out/_vectors", True),
    ],
)
def test_an_output_inside_the_output_of_another_task_is_refused(
    new_dag: Callable[[], Any],
    run_dag: Callable[..., Any],
    lake: Path,
    tmp_path: Path,
    started_workers: Any,
    caplog: Any,
    capfd: Any,
    first: str,
    second: str,
    allowed: bool,
) -> None:
    from airflow_mullama.operators import MullamaEmbedOperator, MullamaGenerateOperator

    with new_dag() as dag:
        answered = MullamaGenerateOperator.partial(
            task_id="answer", output_path=str(tmp_path / first), prompt_column="text", model="echo", retries=2
        ).expand(input_path=[str(lake / "ds=2026-01-01")])
        MullamaEmbedOperator(
            task_id="embed",
            input_path=str(lake / "ds=2026-01-02"),
            output_path=str(tmp_path / second),
            text_column="text",
            model="echo",
        )
        assert answered
    run = run_dag(dag)
    if allowed:
        assert run.state == "success"
        return
    assert set(states(run).values()) == {"failed"}
    assert len(started_workers) == 0
    assert "lie in each other" in capfd.readouterr().out + caplog.text


def test_a_summary_says_what_it_counted(pipeline: Callable[..., Any], lake: Path, caplog: Any, capfd: Any) -> None:
    pq.write_table(
        pq.read_table(lake / "ds=2026-01-01" / "a.parquet").slice(0, 4), lake / "ds=2026-01-01" / "a.parquet"
    )
    pipeline({"input_path": str(lake), "where": {"ds": {"to": "2026-01-02"}}})
    sentence = "2 partition(s), 14 rows (14 success); 0 task(s) missing, 0 skipped"
    assert sentence in capfd.readouterr().out + caplog.text


def test_a_scheme_that_airflow_does_not_know_is_left_to_fsspec(airflow_home: Path) -> None:
    from airflow_mullama.errors import ConfigurationError
    from airflow_mullama.hooks.filesystems import resolve_in_task

    assert resolve_in_task("memory://lake/ds=1/").path.strip("/") == "lake/ds=1"
    with pytest.raises(ConfigurationError, match="'memory://lake' cannot be used"):
        resolve_in_task("memory://somebody@lake")


def test_mapped_tasks_that_would_meet_are_refused_before_a_row(
    new_dag: Callable[[], Any], run_dag: Callable[..., Any], lake: Path, tmp_path: Path, started_workers: Any
) -> None:
    from airflow.sdk import task, task_group

    from airflow_mullama.decorators import mullama_generate_task
    from airflow_mullama.operators import MullamaGenerateOperator

    day, other = str(lake / "ds=2026-01-01"), str(lake / "ds=2026-01-02")
    prompts = ["A {text}", "B {text}"]
    common = {"model": "echo", "map_index_template": None}

    def mapped(task_id: str, **arguments: Any) -> Any:
        return MullamaGenerateOperator.partial(task_id=task_id, **common, **arguments)

    with new_dag() as dag:

        @task
        def listed() -> list[str]:
            return prompts

        @task_group
        def each(prompt: str) -> None:
            MullamaGenerateOperator(
                task_id="inside", prompt_template=prompt, input_path=day, output_path=str(tmp_path / "group"), **common
            )

        @mullama_generate_task(
            task_id="function", model="echo", prompt_column="text", output_path=f"{tmp_path}/f.parquet"
        )
        def paths(path: str) -> str:
            return path

        same = {"input_path": day, "output_path": str(tmp_path / "same")}
        mapped("prompts", **same).expand(prompt_template=prompts)
        mapped("from_a_task", **same).expand(prompt_template=listed())
        mapped("templates", input_path=day, output_path=f"{tmp_path}/{{{{ ds }}}}").expand(prompt_template=prompts)
        mapped("one_file", prompt_column="text", output_path=str(tmp_path / "one.parquet")).expand(
            input_path=[day, other]
        )
        mapped("same_name", prompt_column="text", output_path=str(tmp_path / "names")).expand(
            input_path=[f"{lake}/ds=2026-01-01/../ds=2026-01-01", day]
        )
        mapped("kwargs").expand_kwargs([{**same, "prompt_template": prompt} for prompt in prompts])
        each.expand(prompt=prompts)
        paths.expand(path=[day, other])
    run = run_dag(dag)
    refused = {name: state for name, state in states(run).items() if name[0] != "listed"}
    assert set(refused.values()) == {"failed"}
    assert len(refused) == 16
    assert len(started_workers) == 0


def test_mapped_tasks_with_outputs_of_their_own_run(
    new_dag: Callable[[], Any], run_dag: Callable[..., Any], lake: Path, tmp_path: Path
) -> None:
    from airflow_mullama.operators import MullamaGenerateOperator

    day = str(lake / "ds=2026-01-01")
    with new_dag() as dag:
        MullamaGenerateOperator.partial(
            task_id="prompts", input_path=day, output_path=f"{tmp_path}/{{{{ ti.map_index }}}}", model="echo"
        ).expand(prompt_template=["A {text}", "B {text}"])
        MullamaGenerateOperator.partial(
            task_id="days", output_path=str(tmp_path / "days"), prompt_column="text", model="echo"
        ).expand(input_path=[day, str(lake / "ds=2026-01-02")])
    assert run_dag(dag).state == "success"
    assert written(tmp_path / "days") == ["ds=2026-01-01", "ds=2026-01-02"]
    stored = pq.read_metadata(tmp_path / "1" / "ds=2026-01-01" / "part-00000.parquet").metadata[b"airflow_mullama"]
    assert json.loads(stored)["writer"] == {"dag_id": dag.dag_id, "task_id": "prompts", "map_index": 1}


def test_a_budget_that_no_retry_can_keep_fails_at_once(
    new_dag: Callable[[], Any], run_dag: Callable[..., Any], lake: Path, tmp_path: Path
) -> None:
    from airflow_mullama.operators import MullamaGenerateOperator

    with new_dag() as dag:
        MullamaGenerateOperator(
            task_id="job",
            model="echo",
            input_path=str(lake / f"ds={DAYS[0]}"),
            output_path=str(tmp_path / "out"),
            prompt_column="text",
            engine_options={"n_ctx": 2},
            retries=3,
        )
    run = run_dag(dag)
    instance = run.get_task_instance("job")
    assert (instance.state, instance.try_number) == ("failed", 1)
    assert xcom(run, "job", "manifest")["error_types"] == {"prompt_too_long": ROWS}


def test_a_budget_is_of_all_mapped_tasks_together_and_each_ends_without_a_retry(
    pipeline: Callable[..., Any],
    tmp_path: Path,
    write_parquet: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for day in DAYS[:2]:
        write_parquet(tmp_path / "long" / f"ds={day}" / "a.parquet", [f"{day} {row}" for row in range(3000)])
    listing, generate = {"input_path": str(tmp_path / "long")}, {"engine_options": {"n_parallel": 2}}
    run = pipeline(listing, generate={**generate, "max_tokens_total": "{{ 400 }}", "retries": 3})
    for index in range(2):
        instance = run.get_task_instance("job", map_index=index)
        assert (instance.state, instance.try_number) == ("failed", 1)
    said = capfd.readouterr().out + caplog.text
    assert said.count("of max_tokens_total=200)") >= 2
    assert "of max_tokens_total=400)" not in said
    assert set(written(tmp_path / "out")) == {"_mullama_stage"}  # durable, and nothing is published
    rest = pipeline(listing, generate=generate)
    for index in range(2):
        manifest = xcom(rest, "job", map_index=index)
        assert manifest["rows"] == 3000
        assert 0 < manifest["resumed_rows"] < 3000
