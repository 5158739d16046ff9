"""Models that think, for real: tiny ones that write what a test says, with the templates of well-known ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from template_models import write_template_model

from airflow_mullama import ClassifyJob, GenerateJob, run_partition
from airflow_mullama.manifest import PartitionManifest

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_worker_left")]

SCRIPTS = {
    "qwen3": ["Ċ", "<think>", "h", "m", "</think>", "y", "e", "s"],
    "deepseek-r1": ["Ċ", "h", "m", "</think>", "y", "e", "s"],  # the template opens the block
    "magistral": ["[/INST]", "[THINK]", "h", "m", "[/THINK]", "y", "e", "s"],
}
SCHEMA = {"type": "object", "properties": {"label": {"enum": ["red", "green"]}}, "required": ["label"]}
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("thinking")
    return {name: write_template_model(folder / f"{name}.gguf", name, script) for name, script in SCRIPTS.items()}


@pytest.fixture
def ask(tmp_path: Path, models: dict[str, Path]) -> Ask:
    def run(name: str, kind: type[GenerateJob] = GenerateJob, **arguments: Any) -> dict[str, Any]:
        source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
        pq.write_table(pa.table({"text": ["more"]}), source)
        defaults = {"prompt_column": "text", "max_error_ratio": 1.0, "engine_options": {"n_threads": 1}}
        if kind is GenerateJob:
            defaults["max_tokens"] = 40
        run.manifest = run_partition(  # type: ignore[attr-defined]
            kind(model=str(models[name]), **{**defaults, **arguments}), source, target, listeners=[]
        )
        (row,) = pq.read_table(target).to_pylist()
        target.unlink()
        return row

    return run


def manifest_of(ask: Ask) -> PartitionManifest:
    return ask.manifest  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_thought_has_a_column_of_its_own(ask: Ask, name: str) -> None:
    row = ask(name)
    tokens = SCRIPTS[name].index("y") - 1
    assert (row["response"], row["reasoning"], row["reasoning_tokens"]) == ("yes", "hm", tokens)
    assert row["completion_tokens"] == tokens + 4
    assert manifest_of(ask).reasoning_tokens == tokens


def test_it_may_be_discarded(ask: Ask) -> None:
    row = ask("qwen3", reasoning="discard")
    assert row["response"] == "yes"
    assert not {"reasoning", "reasoning_tokens"} & row.keys()
    assert manifest_of(ask).reasoning_tokens is None


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_can_be_switched_off(ask: Ask, name: str, caplog: pytest.LogCaptureFixture) -> None:
    thinking, row = ask(name)["prompt_tokens"], ask(name, reasoning="off")
    assert row["response"] == "yes"
    assert "reasoning" not in row
    assert row["prompt_tokens"] > thinking  # an empty block
    assert ("has no switch for it" in caplog.text) == (name != "qwen3")


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("row_timeout", [None, 60.0])
def test_the_model_thinks_freely_and_only_its_answer_is_held_to_the_schema(
    ask: Ask, name: str, row_timeout: float | None
) -> None:
    row = ask(name, output_schema=SCHEMA, row_timeout=row_timeout)
    assert (row["reasoning"], row["label"]) == ("hm", "red")
    assert json.loads(row["response"]) == {"label": "red"}
    assert manifest_of(ask).constrained


def test_a_model_that_thinks_no_more_is_held_to_the_schema_from_its_first_token(ask: Ask) -> None:
    row = ask("qwen3", output_schema=SCHEMA, reasoning="off")
    assert row["label"] == "red"
    row = ask("qwen3", output_schema=SCHEMA, chat=False)  # behind the plain text it would not think
    assert (row["label"], row["reasoning"]) == ("red", None)


def test_stop_texts_are_for_the_answer(ask: Ask) -> None:
    row = ask("magistral", sampling={"stop": ["m", "s"]})
    assert (row["reasoning"], row["response"], row["finish_reason"]) == ("hm", "ye", "stop")


def test_an_answer_that_is_cut_while_the_model_thinks_is_none(ask: Ask) -> None:
    row = ask("qwen3", max_tokens=3)
    assert (row["status"], row["error_type"], row["response"]) == ("failed", "no_answer", None)
    assert (row["reasoning"], row["reasoning_tokens"], row["completion_tokens"]) == ("hm", 3, 3)
    assert row["attempts"] == 1
    assert "cut after 3 tokens while it still reasoned: raise max_tokens" in row["error"]
    assert ask("qwen3", max_tokens=3, output_schema=SCHEMA)["error_type"] == "no_answer"
    assert ask("qwen3", max_tokens=5)["response"] == "y"


def test_a_thought_that_is_too_long_is_closed_and_the_answer_asked_for(ask: Ask) -> None:
    row = ask("magistral", max_reasoning_tokens=2, max_tokens=2)
    assert (row["reasoning"], row["reasoning_tokens"]) == ("h", 2)
    assert (row["response"], row["finish_reason"], row["completion_tokens"]) == ("ye", "length", 4)
    row = ask("deepseek-r1", max_reasoning_tokens=1, output_schema=SCHEMA)
    assert (row["reasoning"], row["label"]) == ("h", "red")
    row = ask("qwen3", max_reasoning_tokens=2)  # which then thinks a second time
    assert (row["reasoning"], row["response"]) == ("h\n\nhm", "yes")


def test_a_label_is_chosen_at_once_or_after_a_thought(ask: Ask) -> None:
    at_once = ask("qwen3", ClassifyJob, labels=["red", "green"])
    assert at_once["label"] == "red"
    assert 0 < at_once["confidence"] < 1
    assert "reasoning" not in at_once
    thought = ask("qwen3", ClassifyJob, labels=["red", "green"], reasoning="separate", max_reasoning_tokens=20)
    assert (thought["label"], thought["reasoning"]) == ("red", "hm")
    assert thought["confidence"] == pytest.approx(at_once["confidence"])  # what it looks at is the same last token


def test_tags_may_be_given(ask: Ask) -> None:
    row = ask("magistral", reasoning_tags=("[THINK]h", "[/THINK]y"))
    assert (row["reasoning"], row["response"]) == ("m", "es")


def test_the_variables_of_a_template_are_the_jobs(ask: Ask) -> None:
    on = ask("qwen3")["prompt_tokens"]
    row = ask("qwen3", chat_template_kwargs={"enable_thinking": False})
    assert row["prompt_tokens"] > on


def test_a_model_that_was_trained_to_think_is_right_when_it_may(tmp_path: Path) -> None:
    numbers = [(95, 870), (417, 85), (999, 999), (308, 694), (61, 439), (7, 5)]
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"a": [a for a, _ in numbers], "b": [b for _, b in numbers]}), source)
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}

    def right(**arguments: Any) -> int:
        job = GenerateJob(
            model="demo:adder",
            prompt_template='What is {a} + {b}? Answer with JSON: {{"sum": the sum}}',
            output_schema=schema,
            max_tokens=160,
            if_exists="overwrite",
            engine_options={"n_threads": 1},
            **arguments,
        )
        run_partition(job, source, target, listeners=[])
        sums = pq.read_table(target)["sum"].to_pylist()
        return sum(found == a + b for found, (a, b) in zip(sums, numbers, strict=True))

    assert right() == len(numbers)
    assert right(reasoning="off") < len(numbers)
