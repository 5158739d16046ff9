from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import GenerateJob, run_partition
from airflow_mullama.commands.main import main


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`first` and `second`: the same rows, answered in two ways."""
    monkeypatch.chdir(tmp_path)
    table = pa.table({"one": ["a", "b", None], "two": ["a", "c", "d"], "truth": ["a", "b", "d"]})
    pq.write_table(table, "in.parquet")
    for name, column in (("first", "one"), ("second", "two")):
        job = GenerateJob(model="echo", prompt_column=column, max_error_ratio=1.0)
        run_partition(job, "in.parquet", f"{name}.parquet")
    return tmp_path


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def test_report_prints_and_writes_a_page(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "first.parquet", "--html", "page.html") == 0

    assert "null_input: 1 (33.3 %)" in capsys.readouterr().out
    assert "<h2>null_input: 1 (33.3 %)</h2>" in (outputs / "page.html").read_text()


def test_preview_shows_prompts_and_answers_and_forecasts_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [None, *(f"ticket {row}" for row in range(399))]
    pq.write_table(pa.table({"text": texts}), "in.parquet")
    words = ("preview", "in.parquet", "--rows", "2", "--prompt-template", "say {text}", "--model", "echo", "--json")

    assert run(*words, "--sample", "100", "--keep", "sample.parquet") == 0

    found = json.loads(capsys.readouterr().out)
    first, second = found["shown_rows"]
    assert first["error"] == "null_input: column 'text' is null"
    assert (second["prompt"], second["answer"]) == ("say ticket 0", "say ticket 0")
    forecast = found["forecast"]
    assert (forecast["rows"], forecast["sampled_rows"]) == (400, 100)
    assert forecast["prompt_tokens"]["value"] == pytest.approx(1200, rel=0.02)  # but for the null
    assert forecast["engine_seconds"]["value"] > 0
    assert pq.read_table("sample.parquet").num_rows == 100


def test_preview_tells_how_many_rows_a_budget_pays_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"text": [f"ticket {row}" for row in range(400)]}), "in.parquet")
    words = ("preview", "in.parquet", "--rows", "1", "--prompt-column", "text", "--model", "echo", "--sample", "50")

    assert run(*words, "--max-tokens-total", "100") == 0

    assert "rows within the budget about 25" in " ".join(capsys.readouterr().out.split())  # two tokens in and two out


def test_preview_shows_what_the_model_gets_special_tokens_and_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"text": ["Where is my parcel? <|user|>"]}), "in.parquet")
    words = ("--prompt-template", "Tag this ticket: {text}", "--model", "demo:ticket-tagger", "--max-tokens", "48")

    assert run("preview", "in.parquet", *words, "--json") == 0

    (row,) = json.loads(capsys.readouterr().out)["shown_rows"]
    assert row["prompt"].startswith("<|bos|><|user|>Tag this ticket: Where is my parcel?")
    assert row["prompt"].endswith("<|assistant|>")
    assert (row["n_ctx"], row["error"]) == (512, None)
    assert 10 < row["prompt_tokens"] < 60


def test_evaluate_prints_json(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "first.parquet", "--expected", "truth", "--json") == 0

    assert json.loads(capsys.readouterr().out)["answers"]["response"]["exact_match"]["value"] == pytest.approx(
        2 / 3, abs=1e-6
    )


def test_evaluate_compares_two_passes(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("evaluate", "first.parquet", "--second-pass", "second.parquet", "--judgement", "response", "--json")
    assert run(*words) == 0

    assert json.loads(capsys.readouterr().out)["agreement"]["value"] == 0.5


def test_compare_shows_both_sides(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "first.parquet", "second.parquet", "--expected", "truth", "--json") == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["changed"]["value"]) == (3, pytest.approx(2 / 3, abs=1e-6))
    assert [row["row"] for row in found["changed_rows"]] == [1, 2]
    assert found["accuracy"]["p_value"] == 1.0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("evaluate", "first.parquet"), "give --expected or --second-pass"),
        (("evaluate", "first.parquet", "--second-pass", "second.parquet"), "go together"),
        (("evaluate", "first.parquet", "--expected", "a=truth", "--expected", "a=one"), "twice"),
        (("evaluate", "first.parquet", "--expected", "truth", "--expected", "one"), "write ANSWER=COLUMN"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(
    outputs: Path, words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_page_that_cannot_be_written_is_said(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "first.parquet", "--html", "nowhere/page.html") == 1
    assert "cannot be written" in capsys.readouterr().err
