"""The adapter, judged by common.ai itself: its dispatch, its operator, its results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

pytest.importorskip("airflow.providers.common.ai", reason="the provider common.ai is not installed")

from airflow.models.connection import Connection
from airflow.providers.common.ai.batch import dispatch
from airflow.providers.common.ai.batch.output_schema import build_output_spec
from airflow.providers.common.ai.exceptions import LLMBatchInputError, LLMBatchJobError
from pydantic import BaseModel

from airflow_mullama.common_ai.batch_adapter import MullamaBatchAdapter

pytestmark = pytest.mark.integration

KEY, FINGERPRINT = "0123456789abcdef", "f" * 64


class Tags(BaseModel):
    category: Literal["billing", "shipping", "technical"]
    urgent: bool


@pytest.fixture
def adapter(tmp_path: Path) -> MullamaBatchAdapter:
    return MullamaBatchAdapter(base_url=str(tmp_path / "batches"))


def submit(adapter: MullamaBatchAdapter, prompts: list[str], output_type: type = str, **arguments: Any) -> str:
    spec = build_output_spec(output_type)
    requests: Any = [{"prompt": prompt} for prompt in prompts]
    common = {"model": "echo", "output_spec": spec, "idempotency_key": KEY, **arguments}
    adapter.validate_requests(requests, **common)
    return adapter.submit(requests, input_fingerprint=FINGERPRINT, **common).batch_id


def test_common_ai_finds_it_by_its_entry_point() -> None:
    found = dispatch.get_adapter_class("mullama", "mullama:/models/qwen3.gguf")
    assert found is MullamaBatchAdapter
    connection = Connection(conn_id="models", conn_type="mullama", host="/srv/batches")
    assert isinstance(dispatch.build_adapter_from_connection("mullama", connection), MullamaBatchAdapter)


def test_a_batch_is_done_when_it_is_submitted(adapter: MullamaBatchAdapter) -> None:
    batch_id = submit(adapter, ["one", "two"])

    assert adapter.get_batch(batch_id).status == "completed"
    assert adapter.get_batch(batch_id).counts == {"succeeded": 2, "errored": 0, "expired": 0, "cancelled": 0}
    assert [(item.index, item.custom_id, item.raw) for item in adapter.iter_results(batch_id)] == [
        (0, f"{KEY}-0", "one"),
        (1, f"{KEY}-1", "two"),
    ]


def test_the_same_batch_is_computed_once_and_found_again(adapter: MullamaBatchAdapter, started_workers: Any) -> None:
    assert adapter.find_orphaned_batch(KEY, FINGERPRINT, "2026-01-01T00:00:00+00:00") is None
    first = submit(adapter, ["one", "two"])
    again = submit(adapter, ["one", "two"])

    assert first == again == adapter.find_orphaned_batch(KEY, FINGERPRINT, "2026-01-01T00:00:00+00:00")
    assert len(started_workers) == 1


def test_a_row_that_fails_is_an_errored_request(adapter: MullamaBatchAdapter) -> None:
    options = {"engine_options": {"faults": {"fail": [1]}}, "max_retries": 0}
    batch_id = submit(adapter, ["one", "two", "three"], request_params=options)

    items = list(adapter.iter_results(batch_id))
    assert [item.provider_status for item in items] == ["success", "errored", "success"]
    assert items[1].error == {"type": "engine_error", "message": "scripted failure of row 1"}


@pytest.mark.parametrize(
    ("requests", "arguments", "sentence"),
    [
        ([{"prompt": "a", "model": "mullama:other"}], {}, "one batch loads one model"),
        ([{"prompt": "a", "params": {"seed": 1}}], {}, "those of the whole batch"),
        ([{"prompt": "a", "max_tokens": 5}], {}, "those of the whole batch"),
        ([{"prompt": "a"}], {"request_params": {"logit_bias": {}}}, "request_params has 'logit_bias'"),
        ([{"prompt": "a"}], {"request_params": {"temperature": -1}}, "temperature"),
    ],
)
def test_what_one_job_cannot_do_is_refused_before_it(
    adapter: MullamaBatchAdapter, requests: list[Any], arguments: dict[str, Any], sentence: str
) -> None:
    spec = build_output_spec(str)
    with pytest.raises(LLMBatchInputError, match=sentence):
        adapter.validate_requests(requests, model="echo", output_spec=spec, idempotency_key=KEY, **arguments)


def test_a_model_that_is_not_there_ends_the_task_in_words(adapter: MullamaBatchAdapter) -> None:
    spec = build_output_spec(str)
    with pytest.raises(LLMBatchJobError, match=r"nothing\.gguf"):
        adapter.submit(
            [{"prompt": "a"}],
            model="/models/nothing.gguf",
            output_spec=spec,
            idempotency_key=KEY,
            input_fingerprint=FINGERPRINT,
        )


def test_requests_may_have_system_prompts_of_their_own(adapter: MullamaBatchAdapter) -> None:
    spec = build_output_spec(str)
    requests: Any = [{"prompt": "one", "system_prompt": "be brief"}, {"prompt": "two"}]
    common = {"model": "echo", "output_spec": spec, "idempotency_key": KEY, "system_prompt": "be kind"}
    adapter.validate_requests(requests, **common)

    batch_id = adapter.submit(requests, input_fingerprint=FINGERPRINT, **common).batch_id

    first, second = (item.raw for item in adapter.iter_results(batch_id))
    assert ("brief" in first, "one" in first) == (True, True)
    assert ("kind" in second, "two" in second) == (True, True)


@pytest.mark.parametrize("system", ['Answer as {"label": "x"}.', "Answer {request}.", "notes.txt"])
def test_a_system_prompt_is_taken_as_it_is(adapter: MullamaBatchAdapter, system: str) -> None:
    batch_id = submit(adapter, ["one", "two"], system_prompt=system)

    assert adapter.get_batch(batch_id).counts == {"succeeded": 2, "errored": 0, "expired": 0, "cancelled": 0}


def test_the_operator_lands_typed_rows(
    airflow_home: Path, run_dag: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its example, with the connection and the model changed."""
    from airflow.providers.common.ai.operators.llm_batch import LLMBatchOperator
    from airflow.sdk import DAG

    connection = Connection(conn_type="mullama", host=str(tmp_path / "batches"))
    monkeypatch.setenv("AIRFLOW_CONN_LOCAL_MODELS", connection.as_json())
    prompts = ['{"category": "billing", "urgent": true}', '{"category": "weather", "urgent": true}']
    with DAG("llm_batch_here", schedule=None) as dag:
        LLMBatchOperator(
            task_id="classify",
            requests=prompts,
            result_path=(tmp_path / "results").as_uri(),
            llm_conn_id="local_models",
            model_id="mullama:echo",
            output_type=Tags,
        )

    run = run_dag(dag)

    assert run.state == "success"
    (landed,) = (tmp_path / "results").rglob("*.jsonl")
    first, second = map(json.loads, landed.read_text().splitlines())
    assert (first["status"], first["output"]) == ("success", {"category": "billing", "urgent": True})
    assert second["status"] == "invalid_output"
