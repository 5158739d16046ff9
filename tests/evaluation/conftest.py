from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import ClassifyJob, GenerateJob, run_partition

LABELS = ["billing", "shipping", "technical"]


@pytest.fixture
def answered(tmp_path: Path) -> Callable[..., Path]:
    """Rows that `echo` answered with the text of one of their own columns."""

    def run(columns: Mapping[str, Any], name: str = "out.parquet", **arguments: Any) -> Path:
        source = tmp_path / "inputs" / name
        source.parent.mkdir(exist_ok=True, parents=True)
        pq.write_table(pa.table(dict(columns)), source)
        job = GenerateJob(**{"model": "echo", "prompt_column": "answer", "max_error_ratio": 1.0, **arguments})
        run_partition(job, source, tmp_path / name)
        return tmp_path / name

    return run


@pytest.fixture
def labelled(tmp_path: Path) -> Callable[..., Path]:
    """Rows that `echo` gave the label that their column `answer` says."""

    def run(answers: Sequence[str | None], truths: Sequence[str | None], name: str = "out.parquet") -> Path:
        source = tmp_path / "inputs" / name
        source.parent.mkdir(exist_ok=True, parents=True)
        texts = [None if answer is None else f'{{"label": "{answer}"}}' for answer in answers]
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts, "truth": truths}), source)
        job = ClassifyJob(
            model="echo", labels=LABELS, prompt_template="{text}", chat=False, max_error_ratio=1.0, max_retries=0
        )
        run_partition(job, source, tmp_path / name)
        return tmp_path / name

    return run
