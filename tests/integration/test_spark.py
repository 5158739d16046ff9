"""Spark reads what it wrote, and what we add to it: with Spark itself, where it is installed (``make test-spark``)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from airflow_mullama import run_partition
from airflow_mullama.jobs.generate import GenerateJob

pytest.importorskip("pyspark", reason="Spark is not installed: make test-spark")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java"),
]


def spark(task: str, *paths: Path) -> str:
    script = Path(__file__).with_name("spark_job.py")
    command = [sys.executable, str(script), task, *map(str, paths)]
    # A few rows are not worth what optimizing Java's code for them would take.
    java = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "JAVA_TOOL_OPTIONS": java}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def of_spark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spark") / "in"
    spark("write", folder)
    return folder


def test_spark_reads_its_own_columns_as_before_and_ours_beside(
    of_spark: Path, tmp_path: Path, echo_job: Callable[..., GenerateJob]
) -> None:
    answered, of_pandas = tmp_path / "answered.parquet", tmp_path / "pandas.parquet"
    run_partition(echo_job(prompt_template="{text} {instant}"), of_spark, answered)
    pd.DataFrame({"text": ["a", "b"], "shop": pd.Categorical(["x", "y"])}).to_parquet(tmp_path / "in.parquet")
    run_partition(echo_job(), tmp_path / "in.parquet", of_pandas)

    read: dict[str, Any] = json.loads(spark("read", of_spark, answered, of_pandas).splitlines()[-1])
    before, after = read[str(of_spark)], read[str(answered)]
    count = len(before["types"])
    assert list(after["types"].items())[:count] == list(before["types"].items())
    assert {"interval day to second", "interval year to month", "variant", "timestamp_ntz", "timestamp"} <= set(
        before["types"].values()
    )
    assert [row[:count] for row in after["rows"]] == before["rows"]
    assert list(after["types"].items())[count : count + 2] == [("response", "string"), ("status", "string")]
    assert after["rows"][1][count] == "row 1 9999-12-31T00:00:00"
    assert read[str(of_pandas)]["types"] == {
        "text": "string",
        "shop": "string",
        "response": "string",
        "status": "string",
        "error_type": "string",
        "error": "string",
        "attempts": "int",
        "finish_reason": "string",
        "prompt_tokens": "int",
        "completion_tokens": "int",
        "reasoning": "string",
        "reasoning_tokens": "int",
    }
    assert [row[:3] for row in read[str(of_pandas)]["rows"]] == [["a", "x", "a"], ["b", "y", "b"]]
