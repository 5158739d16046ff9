from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.commands.generate import add_generate_arguments, generate_job, parse_adapter
from airflow_mullama.commands.main import main


def test_an_adapter_on_the_command_line_has_a_scale_behind_its_path() -> None:
    assert parse_adapter("/m/lora.gguf") == {"path": "/m/lora.gguf"}
    assert parse_adapter("/m/lora.gguf=0.5") == {"path": "/m/lora.gguf", "scale": 0.5}
    assert parse_adapter("/m/day=one/lora.gguf") == {"path": "/m/day=one/lora.gguf"}


def test_columns_of_pictures_are_named_one_by_one() -> None:
    parser = argparse.ArgumentParser()
    add_generate_arguments(parser)
    words = ["--model", "m.gguf", "--engine", "llamacpp", "--prompt-template", "x", "--mmproj", "mmproj.gguf"]
    words += ["--image-columns", "front", "--image-columns", "back", "--image-root", "s3://shop/photos", "in", "out"]
    job = generate_job(parser.parse_args(words))
    assert (job.image_columns, job.picture_root, job.projector) == (
        ("front", "back"),
        "s3://shop/photos",
        "mmproj.gguf",
    )


def test_a_budget_that_is_spent_has_an_exit_status_of_its_own_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"text": [f"ticket {row}" for row in range(3000)]}), "in.parquet")
    words = ("generate", "in.parquet", "out.parquet", "--prompt-column", "text", "--model", "echo", "--json")

    with pytest.raises(SystemExit) as spent:
        main([*words, "--option", "n_parallel=2", "--max-tokens-total", "100"])
    assert spent.value.code == 4
    assert "of max_tokens_total=100) at" in " ".join(capsys.readouterr().err.split())
    assert not Path("out.parquet").exists()

    with pytest.raises(SystemExit) as done:
        main(words)
    assert done.value.code == 0
    assert pq.read_table("out.parquet", columns=["status"])["status"].to_pylist() == ["success"] * 3000
