"""Texts to token ids, as the model's own tokenizer has them, but for control tokens that a row spells out."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airflow_mullama.errors import ConfigurationError, ModelLoadError

# A text this long is never tokenized to find out that it is too long.
LEAST_REFUSED_BYTES = 1_000_000
# What transformers gives a tokenizer that declares no limit is far beyond this.
NO_LIMIT = 10_000_000
# Where neither tokenizer nor positions limit a text: a bound on what one row may cost.
DEFAULT_LIMIT = 1_000_000
TRIAL_TEXTS = ("A parcel that never came.", "  Two  spaces,\n\n a line; ÄÖÜ 漢字 \N{PARTY POPPER}! ", "x")


@dataclass(frozen=True)
class TokenizedText:
    """Token ids, and whether they are of the text's beginning only."""

    tokens: array[int]
    truncated: bool


class TextTokens:
    """The tokenizer of a loaded model.

    Args:
        module: the model's first module.
        prompt: put before each text.
        truncates: cut at the limit what is longer.
        positions: tokens that the model's positions suffice for, where it says so.

    Attributes:
        limit: tokens of the longest text.
        is_limited: whether that is the model's own.
        refused_bytes: a text with more can never be short enough.
    """

    def __init__(self, module: Any, prompt: str, *, truncates: bool, positions: int | None) -> None:
        self._module = module
        self._prompt = prompt
        self._truncates = truncates
        self.is_static = not hasattr(module, "auto_model")
        tokenizer = _fast_tokenizer(module, is_static=self.is_static)
        self._refuse_control_tokens(tokenizer)
        tokenizer.encode_special_tokens = True  # "[SEP]" in a row's text is text
        tokenizer.no_padding()
        declared = [int(limit) for limit in (module.max_seq_length, positions) if limit and limit < NO_LIMIT]
        self.is_limited = bool(declared)
        self.limit = min(declared, default=DEFAULT_LIMIT)
        if truncates:
            tokenizer.enable_truncation(self.limit)
        else:
            tokenizer.no_truncation()
        self._tokenizer = tokenizer
        longest = max((len(token.encode()) for token in tokenizer.get_vocab()), default=1)
        self.refused_bytes = max(LEAST_REFUSED_BYTES, self.limit * longest) if declared else 64 * LEAST_REFUSED_BYTES
        self._strips = False
        self._compare()

    def _refuse_control_tokens(self, tokenizer: Any) -> None:
        added = tokenizer.get_added_tokens_decoder().values()
        control = [token.content for token in added if token.special and token.content in self._prompt]
        if control:
            raise ConfigurationError(
                f"The prompt {self._prompt!r} holds {control[0]!r}, which is a control token of the model, and what "
                "stands before a row's text is read as plain text; take it out."
            )

    def _compare(self) -> None:
        """See to it that texts become the ids that the model itself would make of them.

        Raises:
            ModelLoadError: they do not.
        """
        expected = {text: self._ids_of_the_model(text) for text in TRIAL_TEXTS}
        whole = [text for text in TRIAL_TEXTS if len(expected[text]) < self.limit]  # the model cuts the others
        for self._strips in (False, True):
            if all(list(one.tokens) == expected[text] for one, text in zip(self.of(whole), whole, strict=True)):
                return
        raise ModelLoadError(
            "The model prepares texts in a way that this engine does not know (its own token ids of a short text are "
            f"{expected[whole[0]]}, and its tokenizer's {list(self.of(whole[:1])[0].tokens)}); take another model."
        )

    def _ids_of_the_model(self, text: str) -> list[int]:
        features = self._module.preprocess([text], prompt=self._prompt or None)
        return [int(token) for token in features["input_ids"].reshape(-1)]

    def of(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Token ids of texts, each with the prompt before it."""
        asked = [self._asked(text) for text in texts]
        encodings = self._tokenizer.encode_batch(asked, add_special_tokens=not self.is_static)
        return [
            TokenizedText(
                array("i", encoding.ids),
                bool(encoding.overflowing) or (self._truncates and len(text) > self.refused_bytes),
            )
            for encoding, text in zip(encodings, texts, strict=True)
        ]

    def _asked(self, text: str) -> str:
        if self._truncates:  # always more than the model reads
            text = text[: self.refused_bytes]
        text = self._prompt + text
        return text.strip() if self._strips else text

    def is_too_large(self, text: str) -> bool:
        """Whether a text need not be tokenized to know that it is too long."""
        if self._truncates:
            return False
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        return size > self.refused_bytes


def _fast_tokenizer(module: Any, *, is_static: bool) -> Any:
    """A copy of the model's tokenizer, whose settings are then ours alone.

    Raises:
        ModelLoadError: it is none of the package ``tokenizers``.
    """
    from tokenizers import Tokenizer

    found = module.tokenizer if is_static else getattr(module.tokenizer, "backend_tokenizer", None)
    if not isinstance(found, Tokenizer):
        raise ModelLoadError(
            f"The model's tokenizer ({type(module.tokenizer).__name__}) is none of the package tokenizers, which this "
            "engine needs: take a model with a tokenizer.json."
        )
    return Tokenizer.from_str(found.to_str())
