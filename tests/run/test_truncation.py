"""`truncate="end"` around the engine: what the output, the manifest and the command line say of texts that were cut."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import EmbedJob, run_partition
from airflow_mullama.commands.main import main
from airflow_mullama.engines import registry
from airflow_mullama.errors import ColumnClashError, ConfigurationError

TEXTS = ["one two three four five six", "one", None, "one two three four seven", "one two"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": pa.array(TEXTS, pa.string())}), path)
    return path


def embed_job(**changes: Any) -> EmbedJob:
    options = {"n_ctx": 5, "dimensions": 4, **changes.pop("engine_options", {})}
    return EmbedJob(
        **{
            "model": "echo",
            "text_column": "text",
            "truncate": "end",
            "engine_options": options,
            "max_error_ratio": 1.0,
            **changes,
        }
    )


def test_each_row_says_whether_its_text_was_cut_and_the_manifest_counts_them(source: Path, tmp_path: Path) -> None:
    manifest = run_partition(embed_job(), source, tmp_path / "out.parquet", listeners=[])
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["truncated"] for row in rows] == [True, False, None, True, False]
    assert rows[0]["embedding"] == rows[3]["embedding"]
    assert manifest.truncated_rows == 2


def test_an_attempt_that_goes_on_counts_rows_that_were_cut_before(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    failing = {"faults": {"fail": [4]}}
    first = run_partition(embed_job(engine_options=failing, max_retries=0), source, target, listeners=[])
    assert first.status_counts == {"success": 3, "failed": 1, "skipped": 1}
    repaired = run_partition(embed_job(max_retries=0), source, target, listeners=[])
    assert (repaired.computed_rows, repaired.truncated_rows) == (1, 2)
    again = run_partition(embed_job(max_retries=0), source, target, listeners=[])
    assert (again.skipped, again.truncated_rows) == ("up_to_date", 2)


def test_it_belongs_to_the_fingerprint() -> None:
    end, error = (embed_job(truncate=value).request_fingerprint(model_sha256="x") for value in ("end", "error"))
    assert end != error


def test_an_input_that_has_the_column_already_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["a"], "truncated": [True]}), source)
    with pytest.raises(ColumnClashError, match="'truncated'"):
        run_partition(embed_job(), source, tmp_path / "out.parquet", listeners=[])
    run_partition(embed_job(truncate="error"), source, tmp_path / "out.parquet", listeners=[])


@pytest.mark.parametrize("value", ["start", None, True])
def test_another_value_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be one of 'error', 'end'"):
        embed_job(truncate=value)


def test_an_engine_that_cannot_cut_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    load_spec = registry.load_spec
    monkeypatch.setattr(registry, "load_spec", lambda name: dataclasses.replace(load_spec(name), truncates=False))
    with pytest.raises(ConfigurationError, match="'echo' cannot cut texts"):
        embed_job()
    embed_job(truncate="error")


def test_the_command_line_cuts_and_says_how_many(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["embed", str(source), str(tmp_path / "out.parquet"), "--text-column", "text", "--model", "echo"]
    with pytest.raises(SystemExit) as exit_info:
        main([*arguments, "--truncate", "end", "--option", "n_ctx=5", "--json"])
    assert exit_info.value.code == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["truncated_rows"] == 2
    assert "cut at the model's limit: 2" in captured.err
