"""LoRA adapters through the real engine: what they change, and what of them counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_gguf import write_tiny_gguf
from tiny_lora import merged, write_tiny_lora

from airflow_mullama import GenerateJob, run_partition
from airflow_mullama.models.content_hash import file_sha256

pytestmark = pytest.mark.integration

TEXTS = ["hello", "tell me about the parcel", "one two three"]


def run(tmp_path: Path, model: Path, **arguments: Any) -> tuple[Any, list[str]]:
    if not (tmp_path / "in.parquet").exists():
        pq.write_table(pa.table({"text": TEXTS}), tmp_path / "in.parquet")
    job = GenerateJob(
        **{
            "model": str(model),
            "engine_options": {"n_ctx": 128, "n_parallel": 1, "n_threads": 1},
            "prompt_column": "text",
            "max_tokens": 12,
            **arguments,
        }
    )
    manifest = run_partition(job, tmp_path / "in.parquet", tmp_path / "out.parquet", listeners=[])
    return manifest, pq.read_table(tmp_path / "out.parquet")["response"].to_pylist()


def test_an_adapter_changes_answers_as_merged_weights_do(tmp_path: Path, tiny_model: Path) -> None:
    adapter = write_tiny_lora(tmp_path / "lora.gguf")
    _, plain = run(tmp_path, tiny_model)
    manifest, without = run(tmp_path, tiny_model, lora=[{"path": str(adapter), "scale": 0}])
    assert without == plain
    assert manifest.computed_rows == len(TEXTS)  # it is another job all the same
    manifest, half = run(tmp_path, tiny_model, lora=[{"path": str(adapter), "scale": 0.5}])
    assert manifest.to_json()["lora"] == [{"path": str(adapter), "scale": 0.5, "sha256": file_sha256(adapter)}]
    manifest, _ = run(tmp_path, tiny_model, lora=[{"path": str(adapter), "scale": 0.5}])
    assert manifest.skipped == "up_to_date"
    _, of_merged = run(tmp_path, write_tiny_gguf(tmp_path / "merged.gguf", added=merged(0.5)))
    assert half == of_merged
    assert half != plain


def test_an_adapter_counts_by_its_content(tmp_path: Path, tiny_model: Path) -> None:
    first = write_tiny_lora(tmp_path / "first.gguf")
    run(tmp_path, tiny_model, lora=[{"path": str(first)}])
    (tmp_path / "moved").mkdir()
    moved = first.rename(tmp_path / "moved" / "lora.gguf")
    manifest, _ = run(tmp_path, tiny_model, lora=[{"path": str(moved)}])
    assert manifest.skipped == "up_to_date"
    write_tiny_lora(moved, seed=2)
    manifest, _ = run(tmp_path, tiny_model, lora=[{"path": str(moved)}])
    assert manifest.computed_rows == len(TEXTS)
