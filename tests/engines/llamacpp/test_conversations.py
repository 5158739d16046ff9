"""Conversations through the real engine: what they share is computed once; what a template refuses is a row's error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_gguf import CHAT_TEMPLATE, write_tiny_gguf

from airflow_mullama import GenerateJob, run_partition
from airflow_mullama.errors import ChatTemplateMissingError, ModelLoadError

pytestmark = pytest.mark.integration

ALTERNATING = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' and loop.index0 > 0 and messages[loop.index0 - 1]['role'] == 'user' %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<|user|>{{ m['content'] }}<|end|>{% endfor %}<|assistant|>"
)
SHOUTING = CHAT_TEMPLATE.replace("<|system|>{{ m['content'] }}", "<|system|>{{ m['content'] | upper }}")


def run(
    tmp_path: Path, model: Path, columns: dict[str, list[Any]], **arguments: Any
) -> tuple[Any, list[dict[str, Any]]]:
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    job = GenerateJob(
        model=str(model),
        engine_options={"n_ctx": 512, "n_parallel": 2, "n_threads": 1},
        max_tokens=2,
        max_error_ratio=1.0,
        **arguments,
    )
    manifest = run_partition(job, tmp_path / "in.parquet", tmp_path / "out.parquet", listeners=[])
    return manifest, pq.read_table(tmp_path / "out.parquet").to_pylist()


def talk(*texts: str) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(texts)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


@pytest.mark.parametrize("column", ["chat", "text"])
def test_examples_and_system_prompts_are_evaluated_about_once(tmp_path: Path, tiny_model: Path, column: str) -> None:
    columns = {
        "chat": [talk(f"row {number}", "and then", "more") for number in range(40)],
        "text": [f"row {number}" for number in range(40)],
        "who": [f"customer {number % 2} " * 20 for number in range(40)],
    }
    asked: dict[str, Any] = {"messages_column": "chat"} if column == "chat" else {"prompt_column": "text"}
    manifest, _ = run(
        tmp_path, tiny_model, columns, **asked, system_prompt="For {who}.", examples=[("one " * 20, "two " * 20)]
    )
    assert manifest.status_counts == {"success": 40}
    assert manifest.cached_prompt_tokens > 0.7 * manifest.prompt_tokens


def test_a_conversation_that_the_template_refuses_is_that_rows_error(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "alternating.gguf", chat_template=ALTERNATING)
    twice = [*talk("one"), *talk("two")]
    _, rows = run(tmp_path, model, {"chat": [talk("one"), twice, talk("a", "b", "c")]}, messages_column="chat")
    assert [row["error_type"] for row in rows] == [None, "render_error", None]
    assert "takes no conversation of user, user" in rows[1]["error"]
    assert "roles must alternate" in rows[1]["error"]


def test_a_template_that_changes_a_rows_system_prompt_is_refused_before_the_first_row(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "shouting.gguf", chat_template=SHOUTING)
    with pytest.raises(ModelLoadError, match="system_prompt has placeholders, and the model's chat template"):
        run(tmp_path, model, {"text": ["a"]}, prompt_column="text", system_prompt="For {text}")


def test_a_model_without_template_takes_a_system_prompt_and_no_conversation(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "bare.gguf", chat_template=None)
    columns = {"text": ["a"], "chat": [talk("a")]}
    _, (by_row,) = run(tmp_path, model, columns, prompt_column="text", system_prompt="For {text}")
    _, (whole,) = run(tmp_path, model, columns, prompt_template="For {text}\n\n{text}", if_exists="overwrite")
    assert (by_row["response"], by_row["prompt_tokens"]) == (whole["response"], whole["prompt_tokens"])
    for arguments in ({"messages_column": "chat"}, {"prompt_column": "text", "examples": [("a", "b")]}):
        with pytest.raises(ChatTemplateMissingError, match=r"is given, and the model .* carries no chat template"):
            run(tmp_path, model, columns, **arguments)
