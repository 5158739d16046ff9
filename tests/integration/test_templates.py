"""Airflow's templates in prompts and numbers, inside real Airflow."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.integration

START = datetime.datetime(2026, 11, 1, tzinfo=datetime.timezone.utc)
PARAMS = {"who": "ACME {id}", "prefix": "p_", "tokens": 2, "ratio": 0.5, "word": "two"}


@pytest.fixture
def render(airflow_home: Path) -> Callable[..., str]:
    """Render a prompt with one value for every expression."""
    from airflow_mullama.operators.templates import render_prompt

    def render(text: str, value: str = "V", **arguments: Any) -> str:
        return render_prompt("prompt_template", text, lambda expression: value, **arguments)

    return render


@pytest.mark.parametrize(
    ("prompt", "rendered"),
    [
        ("For {{ params.who }}: {text}", "For V: {text}"),
        ("{{ds}}{{- ti.map_index }}{{ macros.ds_add(ds, 1) }}{{ var.value['x'] | upper }}", "VVVV"),
        ('As {{"label": {text}}}', 'As {{"label": {text}}}'),
        ("{{params: {text}}} {{ds, ts}}", "{{params: {text}}} {{ds, ts}}"),
        ("{{text}} {{reason}} {{paramsx}} {{ label }} {ds}", "{{text}} {{reason}} {{paramsx}} {{ label }} {ds}"),
        ("{{label.name}} {%} {{ 'a' }} {{ a: 1 }}", "{{label.name}} {%} {{ 'a' }} {{ a: 1 }}"),
    ],
)
def test_of_a_prompt_only_what_begins_with_a_name_of_airflow_is_rendered(
    render: Callable[..., str], prompt: str, rendered: str
) -> None:
    assert render(prompt) == rendered


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("{{ param.who }}: {text}", "know no 'param'"),
        ("{{ text | upper }}", "know no 'text'"),
        ("{% if params.x %}a{% endif %}", "has '{% if'"),
    ],
)
def test_what_can_only_be_jinja_is_not_taken_literally(render: Callable[..., str], prompt: str, sentence: str) -> None:
    from airflow_mullama.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match=sentence):
        render(prompt)


def test_what_an_expression_gives_names_no_column(render: Callable[..., str]) -> None:
    from airflow_mullama.jobs.prompts import PromptTemplate

    template = PromptTemplate.parse(render("{{ params.who }}: {text}", "{id} }{"))
    assert (template.literals, template.columns) == (("{id} }{: ", ""), ("text",))
    assert render("{{ today() }}", further_names=["today"]) == "V"


@pytest.fixture
def run_tasks(run_dag: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest, write_parquet: Any) -> Any:
    """Run operators over one row, by task id and arguments; returns each one's state and its output's rows."""

    def run(
        mapped: bool = False, folder: str | None = None, **tasks: dict[str, Any]
    ) -> dict[str, tuple[str, list[dict[str, Any]]]]:
        from airflow.sdk import DAG

        from airflow_mullama.operators import MullamaGenerateOperator

        source = str(write_parquet(tmp_path / "in.parquet", ["one two three"]))
        name = "".join(character if character.isalnum() else "_" for character in request.node.name)
        arguments = {"params": PARAMS, "user_defined_macros": {"twice": "V"}, "template_searchpath": folder}
        with DAG(name, schedule=None, start_date=START, **arguments) as dag:
            for task, arguments in tasks.items():
                output = str(tmp_path / f"{task}.parquet")
                defaults = {"task_id": task, "model": "echo", "output_path": output, "retries": 2, **arguments}
                if mapped:
                    MullamaGenerateOperator.partial(**defaults).expand(input_path=[source])
                else:
                    MullamaGenerateOperator(input_path=source, **defaults)
        states = {one.task_id: one.state for one in run_dag(dag).get_task_instances()}
        return {
            task: (state, pq.ParquetFile(tmp_path / f"{task}.parquet").read().to_pylist() if state == "success" else [])
            for task, state in states.items()
        }

    return run


@pytest.mark.parametrize("mapped", [False, True])
def test_prompts_and_prefix_take_parameters_of_the_run(run_tasks: Any, mapped: bool) -> None:
    prompt = 'For {{ params.who }} {{ twice }} as {{"a": 1}}: {text}'
    found = run_tasks(
        mapped,
        ask={"prompt_template": prompt, "output_prefix": "{{ params.prefix }}", "system_prompt": "{{ params.who }}"},
        column={"prompt_column": "{{ 'text' }}"},
    )
    state, rows = found["ask"]
    assert state == "success"
    assert [row["p_response"] for row in rows] == ['For ACME {id} V as {"a": 1}: one two three']
    assert found["column"][1][0]["response"] == "one two three"


def test_a_prompt_may_come_from_another_task(
    run_dag: Callable[..., Any], tmp_path: Path, write_parquet: Any, airflow_home: Path
) -> None:
    from airflow.sdk import DAG, task

    from airflow_mullama.operators import MullamaGenerateOperator

    source = str(write_parquet(tmp_path / "in.parquet", ["one"]))
    with DAG("prompt_of_a_task", schedule=None, start_date=START) as dag:
        build = task(task_id="build")(lambda: "{{ ds }} {text}")
        MullamaGenerateOperator(
            task_id="ask",
            model="echo",
            input_path=source,
            output_path=str(tmp_path / "out.parquet"),
            prompt_template=build(),
        )
    assert run_dag(dag).state == "success"
    assert pq.read_table(tmp_path / "out.parquet")["response"].to_pylist() == ["{ ds } one"]


def test_a_rendered_number_counts_and_another_text_is_refused_by_name(run_tasks: Any, caplog: Any, capfd: Any) -> None:
    text = {"prompt_column": "text"}
    found = run_tasks(
        number={**text, "max_tokens": "{{ params.tokens }}"},
        ratio={**text, "max_error_ratio": "{{ params.ratio }}"},
        sampling={**text, "sampling": {"temperature": "{{ params.ratio }}", "stop": ["{{ 3 }}"]}},
        option={**text, "engine_options": {"n_parallel": "{{ params.tokens }}"}},
        word={**text, "max_tokens": "{{ params.word }}"},
        wrong={"prompt_template": "{{ param.who }} {text}"},
        word_option={**text, "engine_options": {"n_parallel": "{{ params.word }}"}},
    )
    assert {task: state for task, (state, _) in found.items()} == {
        **dict.fromkeys(("number", "ratio", "sampling", "option"), "success"),
        **dict.fromkeys(("word", "word_option", "wrong"), "failed"),
    }
    assert found["number"][1][0]["response"] == "one two"
    said = capfd.readouterr().out + caplog.text
    assert "max_tokens is 'two'; it must be a whole number" in said
    assert "engine_options['n_parallel'] is 'two'; it must be a whole number" in said


@pytest.mark.parametrize("mapped", [False, True])
def test_prompts_and_schema_come_from_files_of_the_search_path(run_tasks: Any, tmp_path: Path, mapped: bool) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "tag.txt").write_text("For {{ params.who }}: {text}\n")
    (tmp_path / "tag.json").write_text('{"type": "object", "properties": {"n": {"type": "integer"}}}')
    found = run_tasks(
        mapped,
        folder=str(tmp_path),
        ask={"prompt_template": "prompts/tag.txt", "output_schema": "tag.json", "max_error_ratio": 1.0},
    )
    state, rows = found["ask"]
    assert state == "success"
    assert [(row["response"], row["n"]) for row in rows] == [("For ACME {id}: one two three", None)]


def test_airflow_shows_what_the_named_files_hold(airflow_home: Path, tmp_path: Path) -> None:
    from airflow.sdk import DAG

    from airflow_mullama.operators import MullamaGenerateOperator

    (tmp_path / "tag.md").write_text("{{ ds }}: {text}")
    (tmp_path / "tag.json").write_text('{"type": "object"}')
    with DAG("shown", schedule=None, start_date=START, template_searchpath=str(tmp_path)):
        operator = MullamaGenerateOperator(
            task_id="ask",
            model="echo",
            input_path="/in",
            output_path="/out",
            prompt_template="tag.md",
            output_schema="tag.json",
        )
    operator.render_template_fields({"ds": "2026-11-01"})
    shown = {name: getattr(operator, name) for name in operator.template_fields}
    assert (shown["prompt_template"], shown["output_schema"]) == ("2026-11-01: {text}", {"type": "object"})


def test_a_file_that_is_not_there_or_that_only_a_parameter_names_is_one_sentence(
    run_tasks: Any, caplog: Any, capfd: Any, tmp_path: Path
) -> None:
    (tmp_path / "two.txt").write_text("{text}")
    found = run_tasks(
        folder=str(tmp_path),
        missing={"prompt_template": "prompts/no.txt"},
        no_schema={"prompt_column": "text", "output_schema": "no.json"},
        parameter={"prompt_template": "{{ params.word }}.txt"},
    )
    assert {state for state, _ in found.values()} == {"failed"}
    said = capfd.readouterr().out + caplog.text
    assert "prompt_template is 'prompts/no.txt', which names a file, and there is none at" in said
    assert str(tmp_path / "prompts" / "no.txt") in said
    assert "output_schema is 'no.json', which names a file, and there is none at" in said
    assert "prompt_template is 'two.txt' once it is rendered, and only a name that stands in the DAG" in said


KEY = "sk-of-a-careless-author"


def serialized(**arguments: Any) -> str:
    """A DAG with one operator, plain and mapped, as Airflow stores it."""
    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import LazyDeserializedDAG

    from airflow_mullama.operators import MullamaGenerateOperator

    mapped = arguments.pop("mapped")
    defaults = {"task_id": "job", "output_path": "/out", "prompt_column": "text", **arguments}
    with DAG("stored", schedule=None, start_date=START) as dag:
        if mapped:
            MullamaGenerateOperator.partial(**defaults).expand(input_path=["/in"])
        else:
            MullamaGenerateOperator(input_path="/in", **defaults)
    return json.dumps(LazyDeserializedDAG.from_dag(dag).data)


def test_a_key_in_the_dag_is_not_stored_with_it(airflow_home: Path) -> None:
    options: dict[str, Any] = {"api_key": KEY, "headers": {"api-key": KEY}, "query": {"sig": KEY}, "n_parallel": 3}
    options["extra_body"] = {"gateway": {"api_key": KEY}}
    stored = serialized(mapped=False, engine_options=options)
    assert KEY not in stored
    assert '"n_parallel": 3' in stored
    assert options["api_key"] == KEY


def test_a_key_of_a_mapped_task_is_stored_and_warned_of(
    run_tasks: Any, caplog: Any, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"api_key": KEY}
    assert KEY in serialized(mapped=True, engine_options=options)  # if Airflow stores it no more, neither warn
    with caplog.at_level(logging.WARNING):
        run_tasks(True, ask={"prompt_column": "text", "engine_options": options})
    said = capfd.readouterr().out + caplog.text
    assert "move it into the connection 'mullama_default'" in said
    assert KEY not in said


def test_numbers_of_chunking_that_a_template_gave_count() -> None:
    from airflow_mullama.operators import MullamaEmbedOperator

    operator = MullamaEmbedOperator(
        task_id="embed",
        input_path="in",
        output_path="out",
        text_column="text",
        chunking={"tokens": "256", "overlap": "32", "by": "sentence", "column": "2026"},
        chunk_output="rows",
    )
    arguments = operator.job_arguments()
    assert arguments["chunking"] == {"tokens": 256, "overlap": 32, "by": "sentence", "column": "2026"}
    assert arguments["chunk_output"] == "rows"
    assert "chunking" in operator.template_fields
