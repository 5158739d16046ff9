"""The texts of a model's tokens, as its GGUF file lists them."""

from __future__ import annotations

import re
from pathlib import Path

from airflow_mullama.models.gguf_header import GgufHeader, read_token_entries

_BYTE = re.compile(rb"<0x([0-9A-F]{2})>")
_BLANK = "\N{LOWER ONE EIGHTH BLOCK}".encode()


def token_texts(path: Path, header: GgufHeader) -> list[bytes | None]:
    """The text of each token by its id; ``None`` for special ones, which stand for no text.

    Args:
        path: of the model's (first) file.
        header: of that file.

    Returns:
        An empty list for a kind of vocabulary that is not known here.
    """
    kind = header.metadata.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        return []
    entries = read_token_entries(path)
    read = _byte_level if kind == "gpt2" else _sentence_piece
    return [None if token in header.special_tokens else read(entry) for token, entry in enumerate(entries)]


def _sentence_piece(entry: bytes) -> bytes | None:
    if byte := _BYTE.fullmatch(entry):
        return bytes([int(byte[1], 16)])
    return entry.replace(_BLANK, b" ")


def _byte_of_characters() -> dict[str, int]:
    """Byte-level vocabularies write each byte as a character: printable ones as they are, the others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_of_characters()


def _byte_level(entry: bytes) -> bytes | None:
    try:
        return bytes(_BYTES[character] for character in entry.decode())
    except (KeyError, UnicodeDecodeError):
        return None
