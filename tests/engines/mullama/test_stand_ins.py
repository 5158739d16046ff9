"""What the double plays is what the real llama.cpp does when it is called as the bindings call it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_gguf import write_tiny_gguf
from using_mullama import mullama_double, mullama_port, why_no_port

pytestmark = pytest.mark.integration

needs_port = pytest.mark.skipif(why_no_port() is not None, reason=str(why_no_port()))
GREEDY = {"temperature": 0.0, "top_k": 1, "top_p": 1.0, "min_p": 0.0, "penalty_repeat": 1.0}
PLAIN = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "penalty_repeat": 1.0}


@pytest.fixture(params=[mullama_double, pytest.param(mullama_port, marks=needs_port)], ids=["double", "llama.cpp"])
def mullama(request: pytest.FixtureRequest) -> Iterator[Any]:
    stand_in: Callable[[], AbstractContextManager[None]] = request.param
    with stand_in():
        yield importlib.import_module("mullama")


@pytest.fixture
def model(mullama: Any, tiny_model: Path) -> Any:
    return mullama.Model.load(str(tiny_model))


def write(mullama: Any, context: Any, model: Any, prompt: str = "hello", count: int = 12, **params: Any) -> list[str]:
    written = context.generate_stream(model.tokenize(prompt), count, mullama.SamplerParams(**{**GREEDY, **params}))
    assert isinstance(written, list)
    return written


def test_n_ctx_is_padded_and_n_batch_is_not_beyond_it(mullama: Any, model: Any) -> None:
    context = mullama.Context(model, 300, n_threads=1)
    assert (context.n_ctx, context.n_batch) == (512, 300)


def test_a_call_continues_the_one_before_until_the_cache_is_cleared(mullama: Any, model: Any) -> None:
    context = mullama.Context(model, 512, n_threads=1)
    first = write(mullama, context, model)
    assert write(mullama, context, model) != first
    context.clear_cache()
    assert write(mullama, context, model) == first


def test_an_overflow_raises_and_stays(mullama: Any, model: Any) -> None:
    context = mullama.Context(model, 256, n_threads=1)
    context.decode([300] * 250)
    with pytest.raises(RuntimeError, match="Decode failed with code: 1"):
        context.decode([300] * 20)
    with pytest.raises(RuntimeError, match="Decode failed with code: 1"):
        context.decode([300] * 20)
    context.clear_cache()
    assert len(write(mullama, context, model)) > 0


def test_temperature_0_samples_and_a_choice_of_one_does_not(mullama: Any, model: Any) -> None:
    context = mullama.Context(model, 512, n_threads=1)

    def answers(**params: Any) -> set[str]:
        found = set()
        for seed in range(4):
            context.clear_cache()
            found.add("".join(write(mullama, context, model, seed=seed, **params)))
        return found

    assert len(answers(**PLAIN)) > 1
    assert len(answers()) == 1


def test_texts_and_tokens_that_cannot_be(mullama: Any, model: Any, tiny_model: Path) -> None:
    with pytest.raises(RuntimeError, match="Invalid text"):
        model.tokenize("a\0b")
    with pytest.raises(ValueError, match="surrogates"):
        model.tokenize("a\ud800b")
    context = mullama.Context(model, 256, n_threads=1)
    with pytest.raises(RuntimeError, match="Empty prompt tokens"):
        context.generate_stream([], 4)
    with pytest.raises(OverflowError):
        context.generate_stream([1], -1)
    with pytest.raises(TypeError):
        mullama.Model.load(tiny_model)


def test_control_tokens_are_those_of_a_text_that_is_parsed(mullama: Any, model: Any) -> None:
    assert model.tokenize("<|user|>", False, True) == [3]
    assert len(model.tokenize("<|user|>", False, False)) > 3


def test_user_defined_tokens_are_found_in_plain_text(mullama: Any, tmp_path: Path) -> None:
    model = mullama.Model.load(str(write_tiny_gguf(tmp_path / "m.gguf", special_type=4)))
    assert model.tokenize("<|user|>", False, False) == [3]


def test_the_vector_is_the_first_tokens_of_the_last_call(mullama: Any, model: Any) -> None:
    tokens = model.tokenize("hello world")

    def vector_of_last_call(*calls: list[int]) -> Any:
        context = mullama.Context(model, 256, n_threads=1, embeddings=True)
        for call in calls:
            context.decode(call)
        return context.get_embeddings()

    first = vector_of_last_call(tokens[:1])
    np.testing.assert_allclose(vector_of_last_call(tokens), first, rtol=1e-3)
    last = vector_of_last_call(tokens[:-1], tokens[-1:])
    assert not np.allclose(last, first, rtol=1e-3)
    np.testing.assert_allclose(vector_of_last_call(*([token] for token in tokens)), last, rtol=1e-2, atol=1e-3)


def test_the_embedding_generator_is_stale(mullama: Any, model: Any) -> None:
    generator = mullama.EmbeddingGenerator(model, normalize=False)
    context = mullama.Context(model, 512, n_threads=1, embeddings=True)
    total: Any = 0.0
    tokens = model.tokenize("hello world")
    for token in tokens:
        context.decode([token])
        total = total + context.get_embeddings()
    assert not np.allclose(generator.embed("hello world"), total / len(tokens), rtol=1e-2, atol=1e-2)
