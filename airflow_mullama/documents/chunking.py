"""How documents are cut into chunks, as the user says it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from airflow_mullama.arguments import OneOf, Whole, require
from airflow_mullama.errors import ConfigurationError, DependencyMissingError

CUTS = ("sentence", "paragraph", "token")
LEAST_TOKENS = 8
EXAMPLE = "{'tokens': 256, 'overlap': 32, 'by': 'sentence'}"


@dataclass(frozen=True)
class Chunking:
    """How long chunks are and where they end.

    Args:
        tokens: that a chunk has at most, as the model reads it: also those that the model puts around a text, and those
            of a template.
        overlap: tokens of a chunk's end that the next one begins with, at most.
        by: where a chunk ends if it can: at the end of a ``sentence`` or of a ``paragraph``; ``token``: after the last
            word that has room.
        column: of a template with several columns, the one that is cut; the others are repeated with each chunk.

    Raises:
        ConfigurationError: a value out of range.
    """

    tokens: int
    overlap: int = 0
    by: Literal["sentence", "paragraph", "token"] = "sentence"
    column: str | None = None

    def __post_init__(self) -> None:
        require("chunking['tokens']", self.tokens, Whole(LEAST_TOKENS, 1_000_000))
        require("chunking['overlap']", self.overlap, Whole(0, self.tokens // 2))
        require("chunking['by']", self.by, OneOf(CUTS))
        if self.column is not None and not isinstance(self.column, str):
            raise ConfigurationError(f"chunking['column'] is {self.column!r}; it must be a column's name.")

    @classmethod
    def of(cls, value: object) -> Chunking:
        """Read the argument ``chunking``.

        Raises:
            ConfigurationError: it is not such a dictionary.
        """
        if isinstance(value, Chunking):
            return value
        names = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or "tokens" not in value or not set(value) <= set(names):
            raise ConfigurationError(
                f"chunking is {value!r}; it must be a dictionary such as {EXAMPLE}, with 'tokens' and, if need be, "
                f"{', '.join(map(repr, names[1:]))}."
            )
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """As the worker receives it."""
        return asdict(self)


def require_splitter() -> None:
    """Check that the package which knows Unicode's borders is there.

    Raises:
        DependencyMissingError: says how to get it.
    """
    if importlib.util.find_spec("regex") is None:
        raise DependencyMissingError(
            "chunking needs the package regex, which knows where Unicode's sentences, words and characters end: "
            "pip install 'airflow-mullama[documents]'."
        )
