from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))  # for the header, with importlib import mode

from tiny_encoder import write_encoder_header

from airflow_mullama.errors import ModelNotFoundError
from airflow_mullama.jobs.embed import EmbedJob
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.jobs.trial import TRIAL_COLUMN, trial_job
from airflow_mullama.run import prepare_model


@pytest.mark.parametrize("pooling", [None, 1, 2])
def test_an_encoder_embeds_whether_it_says_how_or_not(tmp_path: Path, pooling: int | None) -> None:
    path = write_encoder_header(tmp_path / "encoder.gguf", pooling=pooling)
    job = trial_job({"model": str(path), "engine": "llamacpp"})
    assert isinstance(job, EmbedJob)
    assert job.pooling == (None if pooling else "mean")
    assert prepare_model(job).vector_length == 16


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": "echo"},
        {"model": "demo:ticket-tagger"},
        {"model": "m", "engine": "openai", "engine_options": {"endpoint": "http://x"}},
    ],
)
def test_any_other_model_generates(arguments: dict[str, object]) -> None:
    job = trial_job({**arguments, "max_error_ratio": 1.0})
    assert isinstance(job, GenerateJob)
    assert (job.prompt_column, job.max_error_ratio) == (TRIAL_COLUMN, 1.0)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no\.gguf"):
        trial_job({"model": str(tmp_path / "no.gguf"), "engine": "llamacpp"})


def test_an_engine_that_only_embeds_embeds() -> None:
    job = trial_job({"model": "BAAI/bge-m3", "engine": "sentence_transformers"})
    assert isinstance(job, EmbedJob)
    assert (job.text_column, job.pooling) == (TRIAL_COLUMN, None)
