from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import ClassifyJob, GenerateJob, run_partition
from airflow_mullama.engines.base import EngineInfo, EngineSettings, Generation, NoAnswer, Outcome, Request
from airflow_mullama.engines.several_answers import SeveralAnswers
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.rows import ErrorType, RowError

WARM = {"temperature": 1.0}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


class Scripted:
    """An engine that answers as a function says."""

    rows_per_call = 8
    info = EngineInfo("scripted", "0", 1, 1, 8)

    def __init__(self, answer: Callable[[Request], Outcome]) -> None:
        self._answer = answer
        self.asked: list[tuple[int, int]] = []

    def prepare(self, requests: Sequence[Request]) -> list[Request | RowError]:
        return list(requests)

    def run(self, requests: Sequence[Request]) -> list[Outcome]:
        self.asked += [(request.row, request.answer) for request in requests]
        return [self._answer(request) for request in requests]

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        return [len(request.text) for request in requests]

    def close(self) -> None:
        pass


def several(engine: Scripted, count: int, row_timeout: float | None = None) -> SeveralAnswers:
    settings = EngineSettings(task="generate", model="m", options={}, settings={"n": count}, row_timeout=row_timeout)
    return SeveralAnswers(engine, settings)


def answered(request: Request) -> Generation:
    return Generation(f"{request.row}.{request.answer}", "stop", 7, 3)


def test_a_row_has_all_its_answers_and_their_tokens() -> None:
    first, second = several(Scripted(answered), 3).run([Request(0, 1, "a"), Request(1, 1, "b")])
    assert isinstance(first, Generation)
    assert isinstance(second, Generation)
    assert [second.response, *(other.response for other in second.others)] == ["1.0", "1.1", "1.2"]
    assert (first.prompt_tokens, first.completion_tokens) == (7, 9)


def test_a_row_fails_with_its_first_answer_that_does_and_is_asked_no_further() -> None:
    def answer(request: Request) -> Outcome:
        if (request.row, request.answer) == (0, 1):
            return RowError(ErrorType.HTTP_ERROR, "broken")
        return answered(request)

    engine = Scripted(answer)
    failed, sound = several(engine, 3).run([Request(0, 1, "a"), Request(1, 1, "b")])
    assert isinstance(failed, NoAnswer)
    assert failed.error == RowError(ErrorType.HTTP_ERROR, "answer 2 of 3: broken")
    assert (failed.generation.response, failed.generation.prompt_tokens, failed.generation.completion_tokens) == (
        "",
        7,
        3,
    )
    assert isinstance(sound, Generation)
    assert engine.asked == [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2)]


def test_the_time_of_a_row_is_that_of_all_its_answers() -> None:
    engine = Scripted(answered)
    (late,) = several(engine, 3, row_timeout=1e-9).run([Request(0, 1, "a")])
    assert isinstance(late, NoAnswer)
    assert late.error == RowError(ErrorType.TIMEOUT, "1 of 3 answers took longer than row_timeout=1e-09 s")
    assert late.generation.completion_tokens == 3
    assert engine.asked == [(0, 0)]


def test_a_thought_without_an_answer_costs_with_the_answers_before_it() -> None:
    def answer(request: Request) -> Outcome:
        thought = Generation("", "length", 7, 5, reasoning="hm", reasoning_tokens=5)
        return NoAnswer(thought, RowError(ErrorType.NO_ANSWER, "cut")) if request.answer == 2 else answered(request)

    (failed,) = several(Scripted(answer), 3).run([Request(0, 1, "a")])
    assert isinstance(failed, NoAnswer)
    assert failed.error.message == "answer 3 of 3: cut"
    assert (failed.generation.completion_tokens, failed.generation.reasoning, failed.generation.others) == (
        11,
        "hm",
        (),
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n": 0, "sampling": WARM}, "n is 0; it must be a whole number from 1 to 128"),
        ({"n": 2}, "n is 2, and at temperature 0 all answers to a row are the same"),
        ({"n": 2, "sampling": WARM, "output_schema": SCHEMA}, "n is 2, and with an output_schema"),
        ({"logprobs": 1}, "logprobs is 1; it must be one of True, False"),
        ({"logprobs": True}, "logprobs=True, and the engine 'echo' does not say how likely tokens are"),
    ],
)
def test_what_cannot_be_is_refused_with_the_job(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        GenerateJob(model="echo", prompt_column="text", **arguments)


def test_a_classification_has_one_answer() -> None:
    with pytest.raises(ConfigurationError, match="n is 2, and with an output_schema"):
        ClassifyJob(model="echo", labels=["a", "b"], text_column="text", n=2, sampling=WARM)


def test_both_count_in_the_fingerprint_and_neither_where_it_is_not_used() -> None:
    def job(**arguments: Any) -> GenerateJob:
        return GenerateJob(model="m", engine="llamacpp", prompt_column="text", sampling=WARM, **arguments)

    jobs = [job(), job(n=2), job(n=3), job(logprobs=True)]
    assert len({one.request_fingerprint(model_sha256="0") for one in jobs}) == 4
    assert not {"n", "logprobs"} & job(n=1).engine_settings().keys()


def test_lists_of_answers_are_kept_where_the_input_changes_and_failed_rows_have_none(tmp_path: Path) -> None:
    def run(*texts: str | None, **arguments: Any) -> tuple[Any, pa.Table]:
        pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), tmp_path / "in.parquet")
        job = GenerateJob(
            **{"model": "echo", "prompt_column": "text", "n": 2, "sampling": WARM, "max_error_ratio": 1.0, **arguments}
        )
        manifest = run_partition(job, tmp_path / "in.parquet", tmp_path / "out.parquet", listeners=[])
        return manifest, pq.read_table(tmp_path / "out.parquet")

    manifest, table = run("a b", None, "c", "a b", engine_options={"faults": {"fail": [2]}}, max_retries=0)
    assert table["responses"].to_pylist() == [["a b", "a b"], None, None, ["a b", "a b"]]
    assert table["error_type"].to_pylist() == [None, "null_input", "engine_error", None]
    assert (manifest.completion_tokens, manifest.deduplicated_rows) == (8, 1)
    manifest, table = run("a b", None, "c", "a b")
    assert manifest.computed_rows == 1
    assert table["responses"].to_pylist() == [["a b", "a b"], None, ["c", "c"], ["a b", "a b"]]
    manifest, table = run("new", "a b")
    assert (manifest.reused_rows, table["responses"].to_pylist()) == (1, [["new", "new"], ["a b", "a b"]])
    assert table.schema.field("responses").type == pa.list_(pa.string())
