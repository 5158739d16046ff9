"""Sampling parameters, spelled as llama.cpp spells them and checked before any work is spent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields

from airflow_mullama.arguments import Number, Whole, require
from airflow_mullama.errors import ConfigurationError

MAX_STOP_STRINGS = 32


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: 0 is greedy: the most likely token each time.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the most likely tokens that together reach this probability.
        min_p: drop tokens under this fraction of the most likely one's probability.
        repeat_penalty, presence_penalty, frequency_penalty: as in llama.cpp; the defaults change nothing.
        seed: with a temperature, each row draws from its own seed, made of this one and the row's request.
        stop: texts at which the answer ends, not part of it.
    """

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, low, high in (
            ("temperature", 0.0, 10.0),
            ("top_p", 0.0, 1.0),
            ("min_p", 0.0, 1.0),
            ("repeat_penalty", 0.0, 10.0),
            ("presence_penalty", -10.0, 10.0),
            ("frequency_penalty", -10.0, 10.0),
        ):
            require(f"sampling[{name!r}]", getattr(self, name), Number(low, high))
        for name, low_int, high_int in (("top_k", 0, 1_000_000), ("seed", 0, 2**31 - 1)):
            require(f"sampling[{name!r}]", getattr(self, name), Whole(low_int, high_int))
        given = [] if self.stop is None else self.stop
        stop = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, (list, tuple)) else (given,)
        if len(stop) > MAX_STOP_STRINGS or not all(isinstance(text, str) and text for text in stop):
            raise ConfigurationError(
                f"sampling['stop'] is {self.stop!r}; it must be a text or a list of at most {MAX_STOP_STRINGS} texts, "
                "none of them empty."
            )
        object.__setattr__(self, "stop", stop)

    @classmethod
    def from_mapping(cls, values: Mapping[str, object] | None) -> Sampling:
        """Build from the operator's ``sampling=`` dictionary.

        Raises:
            ConfigurationError: an unknown name, or a value out of range.
        """
        if values is None:
            return cls()
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"sampling must be a dictionary such as {{'temperature': 0.0}}, not {values!r}.")
        known = [field.name for field in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ConfigurationError(
                f"sampling has no parameter {', '.join(map(repr, unknown))}; there are: {', '.join(known)}."
            )
        return cls(**{name: value for name, value in values.items() if value is not None})  # type: ignore[arg-type]

    def row_seed(self, request: str, attempt: int, answer: int = 0) -> int:
        """A seed for one request, so that results depend neither on the order of rows nor on who ran them.

        Args:
            request: the rendered request.
            attempt: 1 for the first try; a further try must be able to give another answer.
            answer: which of several answers, from 0; it is the one that this job gives with a seed so much higher.
        """
        digest = hashlib.blake2b(
            f"{self.seed + answer}:{attempt}:".encode() + request.encode("utf-8", "replace"), digest_size=4
        )
        return int.from_bytes(digest.digest(), "big") & 0x7FFF_FFFF
