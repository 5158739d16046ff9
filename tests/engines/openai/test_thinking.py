"""Models that think behind a server: llama.cpp's own, and one that refuses what a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openai_server import MODEL, Asked, Reply, ScriptedServer, error, generation, start_llama_server
from template_models import write_thinking_model

from airflow_mullama import ClassifyJob, GenerateJob, run_partition
from airflow_mullama.errors import ConfigurationError, ModelLoadError

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_worker_left")]

Ask = Callable[..., dict[str, Any]]
SCHEMA = {"type": "object", "properties": {"label": {"enum": ["red", "green"]}}, "required": ["label"]}


@pytest.fixture(scope="session")  # see held_servers
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = write_thinking_model(tmp_path_factory.mktemp("thinking") / "qwen3.gguf")
    server = start_llama_server(model, name=MODEL)
    yield server.listening_address
    del server


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    def run(url: str, kind: type[GenerateJob] = GenerateJob, **arguments: Any) -> dict[str, Any]:
        source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
        pq.write_table(pa.table({"text": ["more"]}), source)
        defaults = {"prompt_column": "text", "max_error_ratio": 1.0}
        job = kind(model=MODEL, engine="openai", engine_options={"endpoint": url}, **{**defaults, **arguments})
        run_partition(job, source, target, listeners=[])
        (row,) = pq.read_table(target).to_pylist()
        target.unlink()
        return row

    return run


def test_llama_server_tells_thought_and_answer_apart(ask: Ask, llama_server: str) -> None:
    row = ask(llama_server)
    assert (row["response"], row["reasoning"], row["reasoning_tokens"]) == ("yes", "hm", None)
    row = ask(llama_server, max_tokens=2)
    assert (row["error_type"], row["reasoning"], row["completion_tokens"]) == ("no_answer", "h", 2)


def test_llama_server_holds_only_the_answer_to_the_schema(
    ask: Ask, llama_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    row = ask(llama_server, output_schema=SCHEMA)
    assert (row["label"], row["reasoning"]) == ("red", "hm")
    assert "not held" not in caplog.text


def test_llama_server_closes_a_thought_that_is_too_long(ask: Ask, llama_server: str) -> None:
    row = ask(llama_server, max_reasoning_tokens=1)
    assert (row["response"], row["reasoning"]) == ("yes", "h")


def test_the_variables_of_a_template_go_to_the_server(ask: Ask, llama_server: str) -> None:
    thinking = ask(llama_server)["prompt_tokens"]
    told = ask(llama_server, chat_template_kwargs={"enable_thinking": False})
    off = ask(llama_server, reasoning="off")
    assert thinking < told["prompt_tokens"] == off["prompt_tokens"]
    assert off["response"] == "yes"
    assert "reasoning" not in off


def test_a_label_is_asked_for_without_a_thought(ask: Ask, llama_server: str) -> None:
    row = ask(llama_server, ClassifyJob, labels=["red", "green"])
    assert row["label"] == "red"
    assert "reasoning" not in row


class Obeying:
    """A server that knows some of the ways to switch thinking off."""

    def __init__(self, *efforts: str, thinks: bool = False) -> None:
        self._efforts, self._thinks = efforts, thinks

    def __call__(self, asked: Asked) -> Reply | None:
        effort = (asked.body or {}).get("reasoning_effort")
        if effort is not None and effort not in self._efforts:
            return error(400, f"Unsupported value: 'reasoning_effort' does not support '{effort}'.")
        return generation(asked, "<think>hm</think>yes" if self._thinks else "yes") if asked.body else None


@pytest.mark.parametrize(
    ("server", "effort", "note"),
    [
        (Obeying("none", "low"), "none", None),
        (Obeying("low"), "low", None),
        (Obeying(), None, "the server takes no switch for it (it answers 400: Unsupported value"),
        (Obeying("none", thinks=True), "none", "reasoning_effort='none', and the model thinks all the same"),
    ],
)
def test_any_other_server_is_offered_less_and_less_effort(
    ask: Ask, scripted_server: Any, caplog: pytest.LogCaptureFixture, server: Obeying, effort: Any, note: Any
) -> None:
    listening: ScriptedServer = scripted_server(server)
    assert ask(listening.url, reasoning="off")["response"] == "yes"
    assert listening.asked[-1].body.get("reasoning_effort") == effort
    assert (note or "") in caplog.text
    assert ("reasoning='off'" in caplog.text) == (note is not None)


def test_what_a_server_cannot_do_is_refused_before_the_first_row(ask: Ask, scripted_server: Any) -> None:
    server: ScriptedServer = scripted_server()
    with pytest.raises(ConfigurationError, match="this server has no such limit"):
        ask(server.url, max_reasoning_tokens=9)
    assert server.texts() == []


def test_a_server_that_takes_no_variables_says_so_itself(ask: Ask, scripted_server: Any) -> None:
    def answer(asked: Asked) -> Reply | None:
        unknown = "chat_template_kwargs" in (asked.body or {})
        return error(400, "Unrecognized request argument supplied: chat_template_kwargs") if unknown else None

    with pytest.raises(ModelLoadError, match="Unrecognized request argument supplied: chat_template_kwargs"):
        ask(scripted_server(answer).url, chat_template_kwargs={"x": 1})
