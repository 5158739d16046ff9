"""Reading a GGUF file's header: what the model is, and whether the file is whole, before an engine is started.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3). Only metadata is read; the long
token lists are walked, not kept.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_mullama.errors import ModelNotFoundError, ModelUnreadableError

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
LONGEST_KEPT_ARRAY = 64
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


@dataclass(frozen=True)
class GgufHeader:
    """A model's metadata.

    Args:
        metadata: key to value; long arrays (token lists) are left out.
        longest_token_bytes: length in bytes of the longest entry of the vocabulary, 0 without one.
        special_tokens: by id, entries of the vocabulary that are control tokens or were added by the model's makers,
            and which a tokenizer may therefore find in plain text; at most a few thousand.
        tensor_count: how many tensors the file has; 0 for a file of vocabulary only.
    """

    metadata: dict[str, Any] = field(default_factory=dict)
    longest_token_bytes: int = 0
    special_tokens: dict[int, str] = field(default_factory=dict)
    tensor_count: int = 0

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
        return self.of_architecture("attention.causal") is False

    @property
    def has_encoder_and_decoder(self) -> bool:
        """Whether an encoder reads the text and a decoder writes (T5 and its kin)."""
        return self.of_architecture("decoder_start_token_id") is not None or self.architecture == "t5"

    @property
    def pooling_type(self) -> int | None:
        """llama.cpp's number of the pooling the model declares: 0 none, 1 mean, 2 cls, 3 last, 4 rank."""
        value = self.of_architecture("pooling_type")
        return int(value) if value is not None else None


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check a model file's header.

    Raises:
        ModelNotFoundError: no such file.
        ModelUnreadableError: not GGUF, damaged, or shorter than its header says.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < 24:
                raise ModelUnreadableError(_damaged(path, f"it has {size} bytes"))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data).read()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ModelNotFoundError(f"There is no model file at {str(path)!r}: check the path.") from error
    except PermissionError as error:
        raise ModelUnreadableError(f"The model file {str(path)!r} may not be read by this user: {error}.") from error


def _damaged(path: Path, reason: str) -> str:
    return f"The model file {str(path)!r} is not a whole GGUF file: {reason}; copy or download it again."


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._at = 0
        self._longest_token = 0
        self._tokens_at: tuple[int, int] | None = None
        self._special_places: list[int] = []

    def read(self) -> GgufHeader:
        if self._data[:4] != MAGIC:
            raise ModelUnreadableError(_damaged(self._path, f"it begins with {self._data[:4]!r} instead of b'GGUF'"))
        self._at = 4
        version = self._scalar("I")
        if version not in (2, 3):
            raise ModelUnreadableError(_damaged(self._path, f"its format version is {version}, not 2 or 3"))
        try:
            tensor_count, key_count = self._scalar("Q"), self._scalar("Q")
            metadata: dict[str, Any] = {}
            for _ in range(key_count):
                key = self._string()
                value_type = self._scalar("I")
                if key == "tokenizer.ggml.token_type":
                    self._special_places = self._places_of_special_tokens()
                    continue
                value = self._value(value_type, is_vocabulary=key == "tokenizer.ggml.tokens")
                if value is not None:
                    metadata[key] = value
            special_tokens = self._special_tokens()
            end = self._end_of_tensors(tensor_count, int(metadata.get("general.alignment", DEFAULT_ALIGNMENT)))
        except (struct.error, LookupError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise ModelUnreadableError(_damaged(self._path, "its header breaks off or makes no sense")) from error
        if end > len(self._data):
            missing = end - len(self._data)
            raise ModelUnreadableError(_damaged(self._path, f"the last {missing:,} of its {end:,} bytes are missing"))
        return GgufHeader(metadata, self._longest_token, special_tokens, tensor_count)

    def _scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self._data, self._at)
        self._at += struct.calcsize("<" + code)
        return value

    def _bytes(self) -> bytes:
        length = self._scalar("Q")
        if length > len(self._data) - self._at:
            raise IndexError("a text reaches beyond the file")
        self._at += length
        return self._data[self._at - length : self._at]

    def _string(self) -> str:
        return self._bytes().decode("utf-8")

    def _value(self, value_type: int, *, is_vocabulary: bool = False) -> Any:
        if value_type == STRING:
            return self._bytes().decode("utf-8", "replace")
        if value_type != ARRAY:
            return self._scalar(SCALARS[value_type])
        item_type, count = self._scalar("I"), self._scalar("Q")
        if count > len(self._data):
            raise IndexError("an array is longer than the file")
        if item_type == STRING:
            return self._strings(count, is_vocabulary)
        if item_type == ARRAY:
            for _ in range(count):
                self._value(ARRAY)
            return None
        width = struct.calcsize("<" + SCALARS[item_type])
        if count <= LONGEST_KEPT_ARRAY:
            return [self._scalar(SCALARS[item_type]) for _ in range(count)]
        self._at += count * width
        return None

    def _strings(self, count: int, is_vocabulary: bool) -> list[str] | None:
        unpack, data, at, end = struct.Struct("<Q").unpack_from, self._data, self._at, len(self._data)
        longest = 0
        kept: list[str] | None = [] if count <= LONGEST_KEPT_ARRAY else None
        for _ in range(count):
            (length,) = unpack(data, at)
            at += 8 + length
            if at > end:
                raise IndexError("a text reaches beyond the file")
            longest = max(longest, length)
            if kept is not None:
                kept.append(data[at - length : at].decode("utf-8", "replace"))
        if is_vocabulary:
            self._longest_token = longest
            self._tokens_at = (self._at, count)
        self._at = at
        return kept

    def _places_of_special_tokens(self) -> list[int]:
        """Walk the array ``tokenizer.ggml.token_type``: int32, one for each token."""
        item_type, count = self._scalar("I"), self._scalar("Q")
        if item_type not in (4, 5) or 4 * count > len(self._data):
            raise IndexError("token types are not 32 bit numbers, or reach beyond the file")
        types = struct.unpack_from(f"<{count}i", self._data, self._at)
        self._at += 4 * count
        return [place for place, token_type in enumerate(types) if token_type in SPECIAL_TOKEN_TYPES]

    def _special_tokens(self) -> dict[int, str]:
        if self._tokens_at is None or not self._special_places:
            return {}
        wanted, tokens = set(self._special_places), dict[int, str]()
        after, (self._at, count) = self._at, self._tokens_at
        for place in range(count):
            token = self._bytes()
            if place in wanted:
                tokens[place] = token.decode("utf-8", "replace")
        self._at = after
        return tokens

    def _end_of_tensors(self, count: int, alignment: int) -> int:
        """Where the data of the last tensor of a known type ends."""
        ends = [0]
        for _ in range(count):
            self._string()
            dimensions = [self._scalar("Q") for _ in range(self._scalar("I"))]
            tensor_type, offset = self._scalar("I"), self._scalar("Q")
            values = 1
            for dimension in dimensions:
                values *= dimension
            if tensor_type in TENSOR_TYPES:
                block_values, block_bytes = TENSOR_TYPES[tensor_type]
                ends.append(offset + values // block_values * block_bytes)
        start = -(-self._at // alignment) * alignment
        return start + max(ends)
