"""How probable a label is among all labels: the probability with which a model that is held to the labels writes it.

That is what decoding under the answer's grammar draws from, at a temperature of 1: at each place the probabilities of
those tokens alone that some label can go on with, whatever else the model would rather have written. Every way to spell
a label in tokens counts. Where one label is left it is settled, so that mostly the tokens told with the answer are
enough. What they leave open is asked for: one token more behind the same prompt, which the row's slot still holds.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Tokens told with each token of the answer.
TOP_TOKENS = 64
# What may stay open: a share of all labels together.
TOLERANCE = 1e-3
# With more questions a row has no confidence: a thousand labels may share many beginnings.
MOST_QUESTIONS = 128
# Added to the logits of the tokens in question, so that they come first, however improbable they are.
BIAS = 100.0

Prefix = tuple[int, ...]
Ask = Callable[[dict[str, Any]], Sequence[Mapping[str, Any]] | None]
"""Sends the body of a completion and gives the probabilities of its tokens; ``None`` if the engine refuses."""


class NotScoredError(Exception):
    """The probabilities of the labels could not be found out."""


class LabelScores:
    """Knows every way to spell the labels in tokens.

    Args:
        name: of the answer's field that holds the label.
        labels: all there are.
        vocabulary: the text of each token by its id; ``None`` for a token that writes no text.
    """

    def __init__(self, name: str, labels: Sequence[str], vocabulary: Sequence[bytes | None]) -> None:
        self._name = name
        self._labels = frozenset(labels)
        self._answers = {
            label: json.dumps({name: label}, ensure_ascii=False, separators=(",", ":")).encode() for label in labels
        }
        self.head = _common_beginning(list(self._answers.values()))
        """What all answers begin with."""
        self._tokens: dict[bytes, list[int]] = {}
        for token, text in enumerate(vocabulary):
            if text:
                self._tokens.setdefault(text, []).append(token)
        self._longest = max(map(len, self._tokens), default=0)
        self._begun_with: dict[bytes, list[str]] = {}
        self._following: dict[bytes, dict[int, bytes]] = {}

    def confidence(
        self, response: str, tokens: Sequence[Mapping[str, Any]], prompt: Sequence[int], ask: Ask
    ) -> float | None:
        """The probability of an answer's label among all labels, 0 to 1, to about a thousandth.

        Args:
            response: the JSON answer.
            tokens: of the answer, in order, each with ``id``, ``bytes``, ``logprob`` and ``top_logprobs``.
            prompt: what stands before the answer.
            ask: asks the engine.

        Returns:
            ``None`` where the answer has no label or the engine does not tell its probability.
        """
        try:
            label = json.loads(response)[self._name]
        except (ValueError, TypeError, LookupError, RecursionError):
            return None
        if not isinstance(label, str) or label not in self._labels:
            return None
        try:
            return _Search(self, prompt, tokens, ask).share_of(label)
        except NotScoredError:
            return None

    def begun_with(self, text: bytes) -> list[str]:
        """The labels whose answers begin so."""
        if text not in self._begun_with:
            begun = [label for label, answer in self._answers.items() if answer.startswith(text)]
            self._begun_with[text] = begun
        return self._begun_with[text]

    def following(self, text: bytes) -> Mapping[int, bytes]:
        """The tokens with which an answer of this beginning may go on, each with the text that is then there."""
        if text not in self._following:
            rests = {self._answers[label][len(text) :] for label in self.begun_with(text)}
            self._following[text] = {
                token: text + rest[:end]
                for rest in rests
                for end in range(1, min(len(rest), self._longest) + 1)
                for token in self._tokens.get(rest[:end], ())
            }
        return self._following[text]


def _common_beginning(texts: Sequence[bytes]) -> bytes:
    first, last = min(texts), max(texts)
    end = next((place for place, byte in enumerate(first) if byte != last[place]), len(first))
    return first[:end]


class _Search:
    """The search for all ways to one label, the most probable beginnings first.

    Args:
        labels: how they are spelt.
        prompt, tokens, ask: see :meth:`LabelScores.confidence`.
    """

    def __init__(
        self, labels: LabelScores, prompt: Sequence[int], tokens: Sequence[Mapping[str, Any]], ask: Ask
    ) -> None:
        self._labels = labels
        self._prompt = list(prompt)
        self._ask = ask
        self._questions = 0
        begin, self._head = 0, b""
        while begin < len(tokens) and labels.head.startswith(self._head + bytes(tokens[begin]["bytes"])):
            self._head += bytes(tokens[begin]["bytes"])
            begin += 1
        ids = tuple(token["id"] for token in tokens)
        self._begin: Prefix = ids[:begin]
        self._told = {ids[:place]: tokens[place] for place in range(begin, len(tokens))}

    def share_of(self, label: str) -> float:
        """The probability of a label among all labels, after what the model wrote before any of them began."""
        own = 0.0
        # Minus the share of a beginning, its tokens, its text.
        open_ends: list[tuple[float, Prefix, bytes]] = [(-1.0, self._begin, self._head)]
        while -sum(share for share, _, _ in open_ends) > TOLERANCE:
            share, prefix, text = heapq.heappop(open_ends)
            following = self._labels.following(text)
            if prefix in self._told and self._told[prefix]["id"] not in following:
                raise NotScoredError  # what the model wrote is no token that the vocabulary knows for this text
            for token, of_next in self._shares(prefix, following).items():
                left = self._labels.begun_with(following[token])
                if left == [label]:
                    own -= share * of_next
                elif label in left:
                    heapq.heappush(open_ends, (share * of_next, (*prefix, token), following[token]))
        return own

    def _shares(self, prefix: Prefix, following: Mapping[int, bytes]) -> Mapping[int, float]:
        """The probabilities of the tokens that may follow, among each other."""
        told = self._told.get(prefix)
        shares = None if told is None else _told_shares(told, following)
        if shares is None:
            shares = self._asked_shares(prefix, following)
        total = sum(shares.values())
        if not 0.0 < total < math.inf:
            raise NotScoredError
        return {token: share / total for token, share in shares.items()}

    def _asked_shares(self, prefix: Prefix, following: Mapping[int, bytes]) -> dict[int, float]:
        self._questions += 1
        if self._questions > MOST_QUESTIONS:
            raise NotScoredError
        answers = self._ask(
            {
                "prompt": [*self._prompt, *prefix],
                "max_tokens": 1,
                "logit_bias": [[token, BIAS] for token in following],
                "post_sampling_probs": True,
                "logprobs": len(following),
                "temperature": 1.0,
                "top_k": 0,
                "top_p": 1.0,
                "min_p": 0.0,
                "seed": 0,
                "cache_prompt": True,
            }
        )
        if not answers:
            raise NotScoredError
        return {token["id"]: token["prob"] for token in answers[0]["top_probs"] if token["id"] in following}


def _told_shares(token: Mapping[str, Any], following: Mapping[int, bytes]) -> dict[int, float] | None:
    """The probabilities of the tokens that may follow, as an answer's token tells them; ``None`` if others matter."""
    told = {other["id"]: math.exp(other["logprob"]) for other in token["top_logprobs"]}
    # A list shorter than what was asked for has all tokens.
    most_untold = min(told.values()) if len(told) >= TOP_TOKENS else 0.0
    told[token["id"]] = math.exp(token["logprob"])
    shares = {other: told[other] for other in following if other in told}
    untold = len(following) - len(shares)
    return shares if untold * most_untold <= TOLERANCE * sum(shares.values()) else None
