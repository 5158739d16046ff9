"""Answers as typed columns, on the real engine, read back by what people read Parquet with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import ClassifyJob, GenerateJob, run_partition
from airflow_mullama.demo.tickets import CATEGORIES, PROMPT_TEMPLATE, SENTIMENTS, URGENCIES, generate_tickets
from airflow_mullama.errors import ConfigurationError

pytestmark = pytest.mark.integration

MODEL = "demo:ticket-tagger"
SCHEMA = {
    "type": "object",
    "properties": {
        "category": {"enum": list(CATEGORIES)},
        "sentiment": {"enum": list(SENTIMENTS)},
        "urgency": {"enum": list(URGENCIES)},
    },
    "required": ["category", "sentiment", "urgency"],
}
HOT = {"temperature": 9.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def run(tmp_path: Path, texts: list[str | None], job: GenerateJob) -> tuple[Any, pa.Table]:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), source)
    manifest = run_partition(job, source, target, listeners=[])
    return manifest, pq.read_table(target)


def tagging(**arguments: Any) -> GenerateJob:
    defaults: dict[str, Any] = {"max_tokens": 48, "output_schema": SCHEMA, "max_error_ratio": 1.0}
    return GenerateJob(model=MODEL, prompt_template=PROMPT_TEMPLATE, **{**defaults, **arguments})


def test_500_tickets_are_all_typed_under_constrained_decoding(tmp_path: Path) -> None:
    texts: list[str | None] = [ticket.text for ticket in generate_tickets(500, seed=3)]
    manifest, table = run(tmp_path, [*texts, None], tagging(sampling=HOT))
    assert manifest.constrained is True
    assert manifest.output_schema["required"] == ["category", "sentiment", "urgency"]
    assert "invalid_json" not in manifest.error_types
    assert manifest.status_counts["success"] + manifest.failed_rows == 500
    assert manifest.status_counts["success"] >= 495
    dictionary = pa.dictionary(pa.int32(), pa.string())
    assert [table.schema.field(name).type for name in SCHEMA["properties"]] == [dictionary] * 3
    rows = table.to_pylist()
    assert all(row["category"] in CATEGORIES for row in rows if row["status"] == "success")
    assert rows[-1]["category"] is None
    path = tmp_path / "out.parquet"
    frame = pd.read_parquet(path)
    assert str(frame["category"].dtype) == "category"
    assert pl.read_parquet(path)["urgency"].null_count() == table["urgency"].null_count
    counted = duckdb.sql(f"SELECT count(*) FROM '{path}' WHERE status = 'success' AND sentiment IS NOT NULL")
    assert counted.fetchall() == [(manifest.status_counts["success"],)]


def test_typed_columns_survive_a_rerun_with_changed_input(tmp_path: Path) -> None:
    texts: list[str | None] = [ticket.text for ticket in generate_tickets(30, seed=4)]
    _, before = run(tmp_path, texts, tagging(chunk_rows=7))
    manifest, after = run(tmp_path, ["a new ticket about a refund", *texts], tagging(chunk_rows=7))
    assert (manifest.reused_rows, manifest.computed_rows) == (30, 1)
    assert after["category"].to_pylist()[1:] == before["category"].to_pylist()


def test_a_cut_answer_is_kept_and_says_what_would_serve(tmp_path: Path) -> None:
    manifest, table = run(tmp_path, ["Where is my parcel?"], tagging(max_tokens=4, max_retries=1))
    (row,) = table.to_pylist()
    assert (row["status"], row["error_type"], row["attempts"]) == ("invalid_output", "invalid_json", 2)
    assert row["response"].startswith('{"category"')
    assert "raise max_tokens (now 4" in row["error"]
    assert row["category"] is None
    assert manifest.status_counts == {"invalid_output": 1}


def test_an_engine_that_cannot_constrain_is_checked(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int16()), ("day", pa.date32())])
    texts: list[str | None] = ['{"n": 7, "day": "2026-11-23"}', '{"n": 70000, "day": null}', "n is 7"]
    job = GenerateJob(
        model="echo", prompt_column="text", output_schema=schema, max_error_ratio=1.0, max_retries=0, repair_prompt=True
    )
    manifest, table = run(tmp_path, texts, job)
    assert manifest.constrained is False
    assert table["error_type"].to_pylist() == [None, "schema_mismatch", "invalid_json"]
    assert table["n"].to_pylist() == [7, None, None]
    assert table.schema.field("n").type == pa.int16()
    assert table["response"].to_pylist() == texts


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"output_schema": {"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}}, "pattern"),
        ({"output_schema": {"type": "object", "properties": {"status": {"type": "string"}}}}, "'status'"),
        ({"output_schema": None, "repair_prompt": True}, "repair_prompt=True needs an output_schema"),
    ],
)
def test_what_cannot_be_promised_is_refused_by_name(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        tagging(**arguments)


def test_classification_gives_a_label_and_how_sure_it_is(tmp_path: Path) -> None:
    labels = ["bill", "billing", 'ship "fast"', "{other}"]
    job = ClassifyJob(model=MODEL, text_column="text", labels=labels, max_error_ratio=1.0)
    manifest, table = run(tmp_path, [None, "I was charged twice", "The parcel never came"], job)
    assert manifest.status_counts == {"success": 2, "skipped": 1}
    rows = table.to_pylist()
    assert (rows[0]["label"], rows[0]["confidence"]) == (None, None)
    assert all(row["label"] in labels and 0 < row["confidence"] <= 1 for row in rows[1:])
    echo = ClassifyJob(model="echo", prompt_template="{text}", labels=labels, if_exists="overwrite")
    _, table = run(tmp_path, ['{"label": "bill"}'], echo)
    assert table.select(["label", "confidence"]).to_pylist() == [{"label": "bill", "confidence": None}]


@pytest.mark.parametrize("labels", [["one"], ["a", "a"], "ab", ["a", ""]])
def test_labels_must_be_several_different_texts(labels: Any) -> None:
    with pytest.raises(ConfigurationError, match="labels"):
        ClassifyJob(model="echo", text_column="text", labels=labels)
