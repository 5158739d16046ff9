"""A model's own ``tokenizer.json``, for exact token ids where llama.cpp's tokenizer differs."""

from __future__ import annotations

from typing import Any

from airflow_mullama.errors import DependencyMissingError, ModelLoadError


def load_tokenizer(path: str | None) -> Any:
    """The tokenizer of a ``tokenizer.json``; ``None`` without a path.

    Raises:
        DependencyMissingError: the package ``tokenizers`` is not installed.
        ModelLoadError: the file cannot be read.
    """
    if path is None:
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise DependencyMissingError(
            f"The tokenizer {path!r} needs the package tokenizers: pip install 'airflow-mullama[tokenizers]'."
        ) from error
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # the package raises nothing more specific
        raise ModelLoadError(f"The tokenizer {path!r} cannot be read: {error}.") from error
    tokenizer.encode_special_tokens = True  # "[SEP]" in a row's text is text
    return tokenizer
