"""The double's ``Context`` and ``EmbeddingGenerator``."""

from __future__ import annotations

import ctypes
import os

import numpy as np

import mullama.models as models
from mullama.facts import holds
from mullama.samplers import Chain, SamplerParams

N_UBATCH = 512
POOLING_NAMES = {1: "mean", 2: "cls", 3: "last"}


class Context:
    def __init__(
        self,
        model: models.Model,
        n_ctx: int = 0,
        n_batch: int = 2048,
        n_threads: int = 0,
        embeddings: bool = False,
        _pooling: int | None = None,
    ) -> None:
        if n_batch == 0 and holds("n_batch_zero_aborts"):
            models.die("n_batch > 0")
        if n_ctx == 0 and holds("n_ctx_zero_is_all"):
            n_ctx = model.n_ctx_train
        n_ctx = n_ctx or 512
        self.model = model
        self.n_ctx = -(-n_ctx // 256) * 256 if holds("n_ctx_padded") else n_ctx
        self.n_batch = min(n_batch, n_ctx)
        self._pooling = model._pooling if _pooling is None else _pooling
        self._embeddings = embeddings
        self._cache: list[int] = []
        self._vector: np.ndarray | None = None
        self._unfilled = np.zeros(model.n_embd, np.float32)

    def clear_cache(self) -> None:
        self._cache = []

    def decode(self, tokens: list[int]) -> None:
        if not tokens and holds("empty_is_previous"):
            return
        for start in range(0, len(tokens), self.n_batch):
            self._decode(list(tokens[start : start + self.n_batch]))

    def _decode(self, batch: list[int]) -> None:
        model = self.model
        if not model._has_weights and holds("vocabulary_crashes"):
            models.die("a model without weights")
        for token in batch:
            if not 0 <= token < model.n_vocab:
                models.die(f"token {token}")
        trouble = model.bad_day([*self._cache, *batch])
        if trouble == "crash;":
            models.die("a bad day")
        if trouble == "hang;" and "MULLAMA_DOUBLE_HANGS" in os.environ:
            open(os.environ["MULLAMA_DOUBLE_HANGS"], "w").close()
        while trouble == "hang;":
            wait = ctypes.PyDLL(None).sleep if holds("gil_is_held") else ctypes.CDLL(None).sleep
            wait(60)
        if model._causal:
            self._extend(batch)
            seen = self._cache
        else:
            if len(batch) > N_UBATCH and holds("encoder_aborts"):
                models.die("n_ubatch >= n_tokens")
            self._cache = seen = list(batch)
        if self._embeddings:
            self._fill(seen, len(batch))

    def _extend(self, batch: list[int]) -> None:
        if len(self._cache) + len(batch) > self.n_ctx:
            if not holds("overflow_stays"):
                self._cache = []
            raise RuntimeError("Generation failed: Decode failed with code: 1")
        self._cache += batch

    def _fill(self, seen: list[int], new: int) -> None:
        """Do with the buffer of vectors what llama.cpp does."""
        pooling = POOLING_NAMES.get(self._pooling)
        if pooling is None:
            place = len(seen) - new if holds("first_row_only") else len(seen) - 1
            self._vector = self.model.token_vector(seen, place)
            return
        if new > N_UBATCH and holds("pooled_in_parts"):
            seen = seen[-(new % N_UBATCH) :]
        true = self.model.true_vector(seen, pooling)
        stale = "pooled_is_stale" if isinstance(self, Context) and not self._of_generator else "generator_is_stale"
        self._vector = self._unfilled if holds(stale) else true
        self._unfilled = true  # whatever was computed last is what lies there next

    _of_generator = False

    def get_embeddings(self) -> np.ndarray | None:
        return None if self._vector is None else self._vector.copy()

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            try:
                return self.model.tokenize(prompt, True, not holds("text_is_plain"))
            except UnicodeEncodeError:
                raise ValueError("prompt must be a string or list of token IDs") from None
        if isinstance(prompt, list) and all(isinstance(token, int) for token in prompt):
            return prompt
        raise ValueError("prompt must be a string or list of token IDs")

    def _generate(self, prompt: str | list[int], max_tokens: int, params: SamplerParams | None) -> list[int]:
        tokens = self._tokens(prompt)
        if max_tokens < 0:
            raise OverflowError("can't convert negative int to unsigned")
        if not tokens and holds("empty_raises"):
            raise RuntimeError("Generation failed: Empty prompt tokens")
        if not holds("cache_kept"):
            self.clear_cache()
        self.decode(tokens)
        chain = Chain(params or SamplerParams(seed=int(np.random.default_rng().integers(2**32))))
        written: list[int] = []
        for _ in range(max_tokens):
            token = chain.sample(self.model.logits(self._cache, len(written)))
            if self.model.token_is_eog(token):
                break
            written.append(token)
            try:
                self.decode([token])
            except RuntimeError:
                if holds("overflow_loses"):
                    raise
                break
        return written

    def generate(self, prompt: str | list[int], max_tokens: int = 100, params: SamplerParams | None = None) -> str:
        assert holds("answers_do_not_stop")
        return self.model.detokenize(self._generate(prompt, max_tokens, params))

    def generate_stream(
        self, prompt: str | list[int], max_tokens: int = 100, params: SamplerParams | None = None
    ) -> list[str]:
        return self.model.pieces(self._generate(prompt, max_tokens, params))


class _PooledContext(Context):
    _of_generator = True


class EmbeddingGenerator:
    def __init__(self, model: models.Model, n_ctx: int = 512, normalize: bool = True) -> None:
        self.model = model
        self.n_embd = model.n_embd
        self._normalize = normalize
        self._context = _PooledContext(model, n_ctx, embeddings=True, _pooling=1)

    def embed(self, text: str) -> np.ndarray:
        self._context.clear_cache()
        self._context.decode(self.model.tokenize(text, True, False))
        vector = self._context.get_embeddings()
        if vector is None:
            raise RuntimeError("No embeddings available")
        length = float(np.linalg.norm(vector))
        return vector / length if self._normalize and length else vector

    def embed_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [self.embed(text) for text in texts]
