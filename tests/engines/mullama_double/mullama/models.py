"""The double's ``Model``: a GGUF file's header, a tokenizer of bytes, and answers drawn from hashes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from mullama.facts import holds

CONTROL, USER_DEFINED = 3, 4
LONGEST_PIECE = 128
ALPHABET = "abcdefghijklmnopqrstuvwxyz  ,."
MARKERS = ("hang;", "crash;")


def die(reason: str) -> None:
    """What llama.cpp does about a violated assumption."""
    print(f"GGML_ASSERT: {reason}", flush=True)  # noqa: T201
    os.abort()


class Model:
    def __init__(self) -> None:
        raise TypeError("No constructor defined")

    @staticmethod
    def load(
        path: str,
        n_gpu_layers: int = 0,
        use_mmap: bool = True,
        use_mlock: bool = False,
        vocab_only: bool = False,
    ) -> Model:
        from mullama import supports_gpu_offload

        if holds("path_rejected") and not isinstance(path, str):
            raise TypeError(f"argument 'path': '{type(path).__name__}' object cannot be converted to 'PyString'")
        if not Path(path).exists():
            raise RuntimeError(f"Failed to load model: Model file not found: {path}")
        if n_gpu_layers > 0 and not supports_gpu_offload() and holds("layers_need_gpu"):
            raise RuntimeError("Failed to load model: Failed to load model - check file format and parameters")
        model = object.__new__(Model)
        model._read(gguf.GGUFReader(path))
        model._has_weights = model._has_weights and not vocab_only
        negative = 0 if holds("minus_one_is_none") else model.n_layer
        model.layers_on_gpu = (negative if n_gpu_layers < 0 else n_gpu_layers) if supports_gpu_offload() else 0
        return model

    def _read(self, reader: gguf.GGUFReader) -> None:
        def value(key: str, default: object = None) -> object:
            field = reader.fields.get(key)
            return default if field is None else field.contents()

        architecture = str(value("general.architecture"))
        self.architecture = architecture
        self.name = value("general.name")
        self.n_embd = int(value(f"{architecture}.embedding_length"))
        self.n_layer = int(value(f"{architecture}.block_count"))
        self.n_ctx_train = int(value(f"{architecture}.context_length"))
        self._causal = bool(value(f"{architecture}.attention.causal", True))
        self._pooling = int(value(f"{architecture}.pooling_type", 0))
        self._template = value("tokenizer.chat_template")
        self._has_weights = bool(reader.tensors)
        tokens, types = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
        self.n_vocab = len(tokens)
        self._special = {
            place: (token, kind)
            for place, (token, kind) in enumerate(zip(tokens, types, strict=True))
            if kind in (CONTROL, USER_DEFINED)
        }
        self.token_bos = int(value("tokenizer.ggml.bos_token_id", -1))
        self.token_eos = int(value("tokenizer.ggml.eos_token_id", -1))
        self._adds_bos = bool(value("tokenizer.ggml.add_bos_token", True))
        self._adds_eos = bool(value("tokenizer.ggml.add_eos_token", False))
        self._first_byte = max(self._special, default=-1) + 1
        self._long_piece = self._first_byte + 256
        assert self.n_vocab > self._long_piece

    # -- text and tokens ---------------------------------------------------------------------------------------------

    def tokenize(self, text: str, add_bos: bool = True, special: bool = False) -> list[int]:
        if not isinstance(text, str):
            raise TypeError(f"argument 'text': '{type(text).__name__}' object cannot be converted to 'PyString'")
        if not holds("surrogate_raises"):
            text = text.encode("utf-8", "replace").decode()
        text.encode()  # raises for a lone surrogate
        if "\0" in text and holds("nul_raises"):
            raise RuntimeError("Tokenization failed: Invalid text")
        matched = {
            token: place
            for place, (token, kind) in self._special.items()
            if (special and holds("special_is_parsed")) or (kind == USER_DEFINED and holds("user_defined_parsed"))
        }
        tokens = [self.token_bos] if add_bos and self._adds_bos and self.token_bos >= 0 else []
        longest_first = sorted(matched, key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text) if matched else [text]
        for part in parts:
            if part in matched:
                tokens.append(matched[part])
            else:
                tokens += [self._first_byte + byte for byte in part.encode()]
        if add_bos and self._adds_eos:
            tokens.append(self.token_eos)
        return tokens

    def _piece(self, token: int) -> bytes:
        if not 0 <= token < self.n_vocab:
            die(f"token {token}")
        if token == self._long_piece:
            if holds("long_piece_raises"):
                raise RuntimeError("Tokenization failed: Failed to convert token to string: -200")
            return b"x" * 200
        return bytes([token - self._first_byte]) if 0 <= token - self._first_byte < 256 else b""

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Each token's text."""
        if holds("characters_break"):
            return [self._piece(token).decode("utf-8", "replace") for token in tokens]
        whole: list[str] = []
        pending = b""
        for token in tokens:
            pending += self._piece(token)
            try:
                whole.append(pending.decode())
                pending = b""
            except UnicodeDecodeError:
                whole.append("")
        return whole

    def detokenize(self, tokens: list[int], remove_special: bool = False, unparse_special: bool = False) -> str:
        text = "".join(self.pieces(tokens))
        return text.removeprefix(" ") if holds("first_space_stripped") else text

    def token_is_eog(self, token: int) -> bool:
        return token == self.token_eos

    def apply_chat_template(self, messages: list[tuple[str, str]], add_generation_prompt: bool = True) -> str:
        template = self._template or "<|im_start|>"
        if not holds("template_guessed"):
            raise NotImplementedError("a build with Jinja is not known yet")
        if "<|im_start|>" in template:
            turns = [f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages]
            return "".join(turns) + ("<|im_start|>assistant\n" if add_generation_prompt else "")
        if "<|user|>" in template and "<|end|>" in template:
            turns = [f"<|{role}|>\n{content}<|end|>\n" for role, content in messages]
            return "".join(turns) + ("<|assistant|>\n" if add_generation_prompt else "")
        raise RuntimeError("Invalid input: Failed to apply chat template")

    # -- what it would write and feel --------------------------------------------------------------------------------

    def logits(self, cache: Sequence[int], written: int) -> dict[int, float]:
        """For the next token, given all tokens in the cache and how many of them are the answer's."""
        if not self._causal:
            if holds("encoder_babbles"):
                return {self._first_byte + byte: 0.0 for byte in os.urandom(4)}
            raise RuntimeError("Generation failed: the model is an encoder")
        script = self._script(cache[: len(cache) - written])
        if script is not None:
            return {script[written] if written < len(script) else self.token_eos: 0.0}
        random = _random(f"logits:{list(cache)}")
        logits = {self._first_byte + ord(letter): float(random.normal(0.0, 2.0)) for letter in ALPHABET}
        logits[self.token_eos] = float(random.normal(-2.0, 2.0))
        return logits

    def _script(self, prompt: Sequence[int]) -> list[int] | None:
        text = self._text(prompt)
        if "say-long;" in text:
            return [self._long_piece]
        scripts = re.findall(r"say(hex)?:(.*?);", text, re.DOTALL)
        if not scripts:
            return None
        is_hex, said = scripts[-1]
        written = bytes.fromhex(said) if is_hex else said.encode()
        return [self._first_byte + byte for byte in written]

    def _text(self, tokens: Sequence[int]) -> str:
        places = [token - self._first_byte for token in tokens]
        return bytes(place for place in places if 0 <= place < 256).decode("utf-8", "replace")

    def bad_day(self, tokens: Sequence[int]) -> str | None:
        """``hang;`` or ``crash;``, if these tokens spell it."""
        text = self._text(tokens)
        return next((marker for marker in MARKERS if marker in text), None)

    def token_vector(self, before: Sequence[int], place: int) -> np.ndarray:
        """Of the token at a place of a text: of a causal model it depends on what is before it, else on everything."""
        seen = list(before)[: place + 1] if self._causal else [*before, place]
        return _random(f"vector:{seen}").standard_normal(self.n_embd).astype(np.float32)

    def true_vector(self, tokens: Sequence[int], pooling: str) -> np.ndarray:
        """What a sound build would give."""
        if pooling == "mean":
            return np.mean([self.token_vector(tokens, place) for place in range(len(tokens))], axis=0, dtype=np.float32)
        return self.token_vector(tokens, {"last": len(tokens) - 1, "cls": 0}[pooling])


def _random(key: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big"))
