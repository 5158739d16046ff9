"""Reading a GGUF file's header: what the model is, and whether the file is whole, before an engine is started.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3). Only metadata is read; the long
token lists are walked, not kept.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from airflow_mullama.errors import ModelNotFoundError, ModelUnreadableError
from airflow_mullama.models.architectures import ENCODERS
from airflow_mullama.storage.links import open_regular_file

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
LONGEST_KEPT_ARRAY = 64
# So much of a file is read at first, and at most. The longest known headers, of 256,000 tokens with merges, have 16 MB.
FIRST_BYTES, MOST_HEADER_BYTES = 4 << 20, 128 << 20
# More than any model has: a file that claims more is not walked.
MOST_KEYS, MOST_TENSORS, MOST_SPECIAL_TOKENS, MOST_ALIGNMENT = 1 << 16, 1 << 18, 1 << 18, 1 << 20
MOST_DIMENSIONS = 4  # GGML_MAX_DIMS
# Ends of the keys that this package computes with.
WHOLE_NUMBERS = (
    "_token_id", ".alignment", ".block_count", ".context_length", ".embedding_length", ".embedding_length_out",
    ".head_count", ".head_count_kv", ".key_length", ".pooling_type", ".value_length", "split.count",
)  # fmt: skip
# Value types by their number in the format: struct codes of the scalar ones.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# Token types that llama.cpp matches before it tokenizes: LLAMA_TOKEN_TYPE_CONTROL and _USER_DEFINED.
SPECIAL_TOKEN_TYPES = frozenset({3, 4})
# ggml tensor types by number: (values in a block, bytes of a block), from ggml's type traits. A type that is not listed
# leaves the size check undone rather than refusing a file that a newer llama.cpp could read.
TENSOR_TYPES = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 36),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
}

Read = TypeVar("Read")


@dataclass(frozen=True)
class GgufHeader:
    """A model's metadata.

    Args:
        metadata: key to value; long arrays (token lists) are left out.
        longest_token_bytes: length in bytes of the longest entry of the vocabulary, 0 without one.
        special_tokens: by id, entries of the vocabulary that are control tokens or were added by the model's makers,
            and which a tokenizer may therefore find in plain text; at most a few thousand.
        tensor_count: how many tensors the file has; 0 for a file of vocabulary only.
        tensor_sides: by name, how many values a tensor has on each side, as ggml orders them.
    """

    metadata: dict[str, Any] = field(default_factory=dict)
    longest_token_bytes: int = 0
    special_tokens: dict[int, str] = field(default_factory=dict)
    tensor_count: int = 0
    tensor_sides: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False)

    @property
    def is_adapter(self) -> bool:
        """Whether it is no model but changes one."""
        return self.metadata.get("general.type") == "adapter"

    @property
    def architecture(self) -> str:
        """Such as ``llama`` or ``bert``."""
        return str(self.metadata.get("general.architecture", "unknown"))

    @property
    def name(self) -> str | None:
        """The name the model's makers gave it."""
        name = self.metadata.get("general.name")
        return str(name) if name else None

    def of_architecture(self, key: str) -> Any:
        """A value whose key begins with the architecture, such as ``context_length``; ``None`` if absent."""
        return self.metadata.get(f"{self.architecture}.{key}")

    @property
    def embedding_length(self) -> int | None:
        """Length of the model's vectors."""
        value = self.of_architecture("embedding_length_out") or self.of_architecture("embedding_length")
        return int(value) if value else None

    @property
    def context_length(self) -> int | None:
        """Tokens the model was trained for."""
        value = self.of_architecture("context_length")
        return int(value) if value else None

    @property
    def chat_template(self) -> str | None:
        """The model's Jinja chat template, if it carries one."""
        value = self.metadata.get("tokenizer.chat_template")
        return str(value) if value else None

    @property
    def is_encoder(self) -> bool:
        """Whether the model reads a text at once (BERT and its kin), so that it embeds and cannot generate."""
        return self.architecture in ENCODERS or self.of_architecture("attention.causal") is False

    @property
    def has_encoder_and_decoder(self) -> bool:
        """Whether an encoder reads the text and a decoder writes (T5 and its kin)."""
        return self.of_architecture("decoder_start_token_id") is not None or self.architecture == "t5"

    @property
    def pooling_type(self) -> int | None:
        """llama.cpp's number of the pooling the model declares: 0 none, 1 mean, 2 cls, 3 last, 4 rank."""
        value = self.of_architecture("pooling_type")
        return int(value) if value is not None else None


def read_token_entries(path: Path) -> list[bytes]:
    """The entries of a model's vocabulary by the ids of their tokens, as they are in the file.

    Raises:
        ModelNotFoundError, ModelUnreadableError: see :func:`read_gguf_header`.
    """
    return _read(path, _Reader.read_tokens)


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check a model file's header.

    Nothing in it is believed before it is read: what it costs grows with the bytes of the header that are there, of
    which only so many are read as it has.

    Raises:
        ModelNotFoundError: no such file.
        ModelUnreadableError: not GGUF, damaged, shorter than its header says, or with a header like no model's.
    """
    return _read(path, _Reader.read)


def _read(path: Path, read: Callable[[_Reader], Read]) -> Read:
    try:
        with open_regular_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size < 24:
                raise ModelUnreadableError(_damaged(path, f"it has {size} bytes"))
            wanted = FIRST_BYTES
            while True:
                file.seek(0)  # and not mapped: a file that is cut short meanwhile would end the process
                try:
                    return read(_Reader(path, file.read(wanted), size))
                except _MoreNeededError as more:
                    wanted = max(2 * wanted, more.end)
                    if more.end > MOST_HEADER_BYTES:
                        reason = f"its header goes beyond {MOST_HEADER_BYTES >> 20} MB, farther than any model's"
                        raise ModelUnreadableError(_damaged(path, reason)) from None
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ModelNotFoundError(f"There is no model file at {str(path)!r}: check the path.") from error
    except OSError as error:
        raise ModelUnreadableError(f"The model file {str(path)!r} cannot be read: {error}.") from error


def _damaged(path: Path, reason: str) -> str:
    return f"The model file {str(path)!r} is not a whole GGUF file: {reason}; copy or download it again."


class _MoreNeededError(Exception):
    """The header goes on behind the bytes at hand, at least to ``end``."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


class _Reader:
    """Reads a header from the beginning of a file.

    Args:
        path: for people.
        data: the first bytes of the file.
        size: how many it has.
    """

    def __init__(self, path: Path, data: bytes, size: int) -> None:
        self._path = path
        self._data = data
        self._size = size
        self._at = 0
        self._longest_token = 0
        self._tokens_at: tuple[int, int] | None = None
        self._special_places: frozenset[int] = frozenset()
        self._sides: dict[str, tuple[int, ...]] = {}

    def read(self) -> GgufHeader:
        if self._data[:4] != MAGIC:
            raise ModelUnreadableError(_damaged(self._path, f"it begins with {self._data[:4]!r} instead of b'GGUF'"))
        self._at = 4
        version = self._scalar("I")
        if version not in (2, 3):
            raise ModelUnreadableError(_damaged(self._path, f"its format version is {version}, not 2 or 3"))
        try:
            tensor_count, key_count = self._scalar("Q"), self._scalar("Q")
            metadata = self._metadata(key_count)
            special_tokens = self._special_tokens(metadata)
            end = self._end_of_tensors(tensor_count, metadata.get("general.alignment", DEFAULT_ALIGNMENT))
        except (struct.error, LookupError, ValueError, TypeError, ArithmeticError) as error:
            raise ModelUnreadableError(_damaged(self._path, "its header breaks off or makes no sense")) from error
        if end > self._size:
            missing = end - self._size
            raise ModelUnreadableError(_damaged(self._path, f"the last {missing:,} of its {end:,} bytes are missing"))
        return GgufHeader(metadata, self._longest_token, special_tokens, tensor_count, self._sides)

    def read_tokens(self) -> list[bytes]:
        self.read()
        if self._tokens_at is None:
            return []
        self._at, count = self._tokens_at
        return [self._bytes() for _ in range(count)]

    def _metadata(self, count: int) -> dict[str, Any]:
        if count > MOST_KEYS:
            raise ValueError("more keys than any model has")
        metadata: dict[str, Any] = {}
        keys: set[str] = set()
        for _ in range(count):
            key = self._string()
            if key in keys:
                raise ValueError("a key stands there twice")
            keys.add(key)
            value_type = self._scalar("I")
            if key == "tokenizer.ggml.token_type" and value_type == ARRAY:
                self._special_places = self._places_of_special_tokens()
                continue
            value = self._value(value_type, is_vocabulary=key == "tokenizer.ggml.tokens")
            if value is not None:
                metadata[key] = value
        for key, value in metadata.items():
            if key.endswith(WHOLE_NUMBERS) and not _is_whole(value):
                raise ValueError("what must be a whole number is none")
        return metadata

    def _end_at(self, end: int) -> int:
        """Where something ends; what begins there is to be read next."""
        if end > len(self._data):
            if end > self._size:
                raise IndexError("it reaches beyond the file")
            raise _MoreNeededError(end)
        return end

    def _scalar(self, code: str) -> Any:
        end = self._end_at(self._at + struct.calcsize("<" + code))
        (value,) = struct.unpack_from("<" + code, self._data, self._at)
        self._at = end
        return value

    def _bytes(self) -> bytes:
        length = self._scalar("Q")
        begin, self._at = self._at, self._end_at(self._at + length)
        return self._data[begin : self._at]

    def _string(self) -> str:
        return self._bytes().decode("utf-8")

    def _value(self, value_type: int, *, is_vocabulary: bool = False) -> Any:
        if value_type == STRING:
            return self._bytes().decode("utf-8", "replace")
        if value_type != ARRAY:
            return self._scalar(SCALARS[value_type])
        item_type, count = self._scalar("I"), self._scalar("Q")
        if item_type == STRING:
            return self._strings(count, is_vocabulary)
        code = SCALARS[item_type]  # an array of arrays is none of llama.cpp's
        if count <= LONGEST_KEPT_ARRAY:
            return [self._scalar(code) for _ in range(count)]
        self._at = self._end_at(self._at + count * struct.calcsize("<" + code))
        return None

    def _strings(self, count: int, is_vocabulary: bool) -> list[str] | None:
        unpack, data, at, size = struct.Struct("<Q").unpack_from, self._data, self._at, len(self._data)
        self._end_at(at + 8 * count)
        longest = 0
        kept: list[str] | None = [] if count <= LONGEST_KEPT_ARRAY else None
        for _ in range(count):
            if at + 8 > size:
                self._end_at(at + 8)
            (length,) = unpack(data, at)
            at += 8 + length
            if at > size:
                self._end_at(at)
            longest = max(longest, length)
            if kept is not None:
                kept.append(data[at - length : at].decode("utf-8", "replace"))
        if is_vocabulary:
            self._longest_token = longest
            self._tokens_at = (self._at, count)
        self._at = at
        return kept

    def _places_of_special_tokens(self) -> frozenset[int]:
        """Walk the array ``tokenizer.ggml.token_type``: int32, one for each token."""
        item_type, count = self._scalar("I"), self._scalar("Q")
        if item_type not in (4, 5):
            raise TypeError("token types are not 32 bit numbers")
        begin, self._at = self._at, self._end_at(self._at + 4 * count)
        types = np.frombuffer(self._data, "<i4", count, begin)
        places = np.flatnonzero(np.isin(types, sorted(SPECIAL_TOKEN_TYPES)))
        if len(places) > MOST_SPECIAL_TOKENS:
            raise ValueError("more special tokens than any model has")
        return frozenset(places.tolist())

    def _special_tokens(self, metadata: dict[str, Any]) -> dict[int, str]:
        # What has a meaning by its key, such as the end of a turn, is special to llama.cpp whatever its type says.
        named = [value for key, value in metadata.items() if key.startswith("tokenizer.") and key.endswith("_token_id")]
        wanted = {*self._special_places, *(value for value in named if isinstance(value, int))}
        tokens = dict[int, str]()
        if self._tokens_at is None or not wanted:
            return tokens
        after, (self._at, count) = self._at, self._tokens_at
        for place in range(count):
            token = self._bytes()
            if place in wanted:
                tokens[place] = token.decode("utf-8", "replace")
        self._at = after
        return tokens

    def _end_of_tensors(self, count: int, alignment: int) -> int:
        """Where the data of the last tensor of a known type ends."""
        if count > MOST_TENSORS or not 0 < alignment <= MOST_ALIGNMENT:
            raise ValueError("more tensors, or a larger alignment, than any model has")
        last = 0
        for _ in range(count):
            name = self._string()
            dimension_count = self._scalar("I")
            if dimension_count > MOST_DIMENSIONS:
                raise ValueError("more dimensions than ggml has")
            self._sides[name] = sides = tuple(self._scalar("Q") for _ in range(dimension_count))
            values = math.prod(sides)
            tensor_type, offset = self._scalar("I"), self._scalar("Q")
            if tensor_type in TENSOR_TYPES:
                block_values, block_bytes = TENSOR_TYPES[tensor_type]
                last = max(last, offset + values // block_values * block_bytes)
        return -(-self._at // alignment) * alignment + last


def _is_whole(value: object) -> bool:
    """A number, or as in some models one for each layer."""
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(one, int) and not isinstance(one, bool) for one in values)
