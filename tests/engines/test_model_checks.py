"""What a model's header alone is refused for, before an engine loads it."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_mullama.engines.model_checks import check_embedding_model, check_generation_model, row_context
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.models.gguf_header import GgufHeader

NONE, MEAN, LAST, RANK = 0, 1, 3, 4


def header(architecture: str, pooling: int | None = None, **values: Any) -> GgufHeader:
    metadata = {"general.architecture": architecture, f"{architecture}.embedding_length": 8}
    metadata |= {f"{architecture}.{name}": value for name, value in values.items()}
    return GgufHeader(metadata if pooling is None else {**metadata, f"{architecture}.pooling_type": pooling})


@pytest.mark.parametrize("architecture", ["t5", "t5encoder", "llada", "wavtokenizer-dec", "qwen3tts", "of-tomorrow"])
def test_what_llama_cpp_is_not_known_to_do_is_refused_by_architecture(architecture: str) -> None:
    with pytest.raises(ConfigurationError, match=f"architecture '{architecture}', .* write text"):
        check_generation_model({}, header(architecture), "m.gguf")
    with pytest.raises(ConfigurationError, match=f"architecture '{architecture}', .* embed text"):
        check_embedding_model({"pooling": "mean"}, header(architecture), "m.gguf")


@pytest.mark.parametrize("architecture", ["bert", "modern-bert", "llama-embed"])
def test_an_encoder_embeds_and_does_not_write_though_its_header_says_nothing_of_attention(architecture: str) -> None:
    with pytest.raises(ConfigurationError, match="reads text and writes none"):
        check_generation_model({}, header(architecture), "m.gguf")
    check_embedding_model({}, header(architecture, MEAN), "m.gguf")


def test_a_decoder_writes_and_embeds() -> None:
    check_generation_model({}, header("qwen3"), "m.gguf")
    check_embedding_model({}, header("qwen3", LAST), "m.gguf")


@pytest.mark.parametrize(
    ("pooling", "words"),
    [(None, "does not say how"), (NONE, "does not say how"), (RANK, "is a reranker"), (9, "declares pooling 9")],
)
def test_a_model_whose_pooling_makes_no_vector_is_refused(pooling: int | None, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check_embedding_model({}, header("bert", pooling), "m.gguf")
    check_embedding_model({"pooling": "cls"}, header("bert", pooling), "m.gguf")


def test_a_row_gets_what_is_asked_for_up_to_what_the_model_was_made_for() -> None:
    notes: list[str] = []
    trained = header("llama", context_length=1000)
    assert row_context(None, trained, 4096, notes) == 1000
    assert row_context(500, trained, 4096, notes) == 500
    assert row_context(5000, header("llama"), 4096, notes) == 5000
    assert notes == []
    assert row_context(5000, trained, 4096, notes) == 1000
    assert notes == ["n_ctx is 5000, and the model was made for 1000 tokens: a row may use 1000"]
