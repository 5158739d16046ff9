"""The probability of a label among all, against every way to write every label, one token after the other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from template_models import write_template_model

from airflow_mullama import ClassifyJob, run_partition
from airflow_mullama.engines.base import Request
from airflow_mullama.engines.llamacpp.label_scores import TOP_TOKENS, LabelScores
from airflow_mullama.engines.prompt_tokens import Piece
from airflow_mullama.models.gguf_header import read_gguf_header
from airflow_mullama.models.vocabulary import token_texts

pytestmark = pytest.mark.integration

HEAD = '{"label":"'
LABEL_SETS = (
    ["one", "two", "three"],
    ["be", "bee", "been", "b"],  # each the beginning of another
    ["refund", "refill", "return", "parcel"],  # that begin alike
    [" hello", "hello", 'say "hello"', "back\\slash", "naïve ✓"],
)


class AnyToken:
    """Asks an engine for the probabilities of all tokens of its vocabulary."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._known: dict[tuple[int, ...], dict[int, tuple[bytes, float]]] = {}

    def after(self, tokens: tuple[int, ...]) -> dict[int, tuple[bytes, float]]:
        """Text and probability of each by its id."""
        if tokens not in self._known:
            # An end of the text would have no probabilities told.
            text = self._engine._http.tokenize("a")[-1:]
            body = {"prompt": list(tokens), "max_tokens": 1, "logprobs": 100_000, "logit_bias": [[text[0], 100.0]]}
            (place,) = self._engine._server.handle_completions(body)["choices"][0]["logprobs"]["content"]
            self._known[tokens] = {
                token["id"]: (bytes(token["bytes"]), math.exp(token["logprob"])) for token in place["top_logprobs"]
            }
        return self._known[tokens]

    def shares(self, tokens: tuple[int, ...], rests: dict[str, bytes], given: float = 1.0) -> dict[str, float]:
        """The probability of each label, if only what goes on to some label is ever drawn."""
        if len(rests) == 1:
            return dict.fromkeys(rests, given)
        allowed = {
            token: (text, probability)
            for token, (text, probability) in self.after(tokens).items()
            if text and any(rest.startswith(text) for rest in rests.values())
        }
        total = sum(probability for _, probability in allowed.values())
        shares = dict.fromkeys(rests, 0.0)
        for token, (text, probability) in allowed.items():
            left = {label: rest[len(text) :] for label, rest in rests.items() if rest.startswith(text)}
            # A hundred thousandth of all changes nothing.
            if given * probability / total > 1e-5:
                for label, share in self.shares((*tokens, token), left, given * probability / total).items():
                    shares[label] += share
        return shares


@pytest.fixture(params=["byte-level", "gemma"])
def model(request: pytest.FixtureRequest, tmp_path: Path, tiny_model: Path) -> Path:
    if request.param == "byte-level":
        return tiny_model
    path: Path = write_template_model(tmp_path / "model.gguf", request.param)
    return path


@pytest.mark.parametrize("labels", LABEL_SETS, ids=lambda labels: labels[0])
def test_a_confidence_is_the_share_of_all_ways_to_write_the_labels(
    start_engine: Callable[..., Any], tmp_path: Path, model: Path, labels: list[str]
) -> None:
    texts = ["hello", "a parcel that never came", "two rows more"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet")
    options = {"n_parallel": 2, "n_threads": 1}
    job = ClassifyJob(model=str(model), prompt_template="{text}", labels=labels, engine_options=options)
    run_partition(job, tmp_path / "in.parquet", tmp_path / "out.parquet", listeners=[])
    engine = start_engine(model)
    every = AnyToken(engine)
    # Where nothing else is allowed, the engine writes a text's usual tokens.
    (head,) = engine._prompts._tokenize([Piece(HEAD, goes_on=True)])
    answers = {
        label: json.dumps({"label": label}, ensure_ascii=False, separators=(",", ":")).encode() for label in labels
    }
    for row in pq.read_table(tmp_path / "out.parquet").to_pylist():
        (request,) = engine.prepare([Request(0, 1, row["text"])])
        shares = every.shares(
            (*request.tokens, *head), {label: answer[len(HEAD) :] for label, answer in answers.items()}
        )
        assert sum(shares.values()) == pytest.approx(1.0, abs=2e-3)
        assert row["confidence"] == pytest.approx(shares[row["label"]], abs=3e-3)


@pytest.mark.parametrize("name", ["gemma", "llama2", "phi3", "minicpm", "qwen3", "llama3.1"])
def test_tokens_have_the_texts_that_the_engine_writes(
    start_engine: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    path = write_template_model(tmp_path / "model.gguf", name)
    header = read_gguf_header(path)
    texts = token_texts(path, header)
    written = AnyToken(start_engine(path)).after((1,))
    assert len(texts) == len(written)
    for token, (text, _) in written.items():
        if texts[token] not in (None, b"<unk>", b"<|end|>"):  # llama.cpp takes what looks so for a control token
            assert texts[token] == text


class TestWhatIsNotKnown:
    TOLD = ({"id": 0, "bytes": [*b'{"label":"'], "logprob": 0.0, "top_logprobs": []},)

    def refuse(self, question: dict[str, Any]) -> None:
        return None

    def test_the_vocabulary(self) -> None:
        token = {"id": 1, "bytes": [*b"one"], "logprob": 0.0, "top_logprobs": []}
        scores = LabelScores("label", ["one", "two"], [])
        assert scores.confidence('{"label":"one"}', [*self.TOLD, token], [], self.refuse) is None

    def test_tokens_that_were_not_told(self) -> None:
        likely = [{"id": 9 + place, "logprob": -4.0} for place in range(TOP_TOKENS)]
        token = {"id": 1, "bytes": [*b"one"], "logprob": -4.0, "top_logprobs": likely}
        scores = LabelScores("label", ["one", "two"], [b'{"label":"', b"one", b"two", b'"}'])
        assert scores.confidence('{"label":"one"}', [*self.TOLD, token], [], self.refuse) is None

    @pytest.mark.parametrize("response", ['{"label":"three"}', '{"label":5}', '{"la', "[]", '{"other":"one"}'])
    def test_the_label(self, response: str) -> None:
        assert LabelScores("label", ["one", "two"], []).confidence(response, [], [], self.refuse) is None
