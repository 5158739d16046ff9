from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mullama.engines.llamacpp.memory import kv_bytes_per_token
from airflow_mullama.errors import ModelNotFoundError, ModelUnreadableError
from airflow_mullama.models import gguf_header
from airflow_mullama.models.gguf_header import GgufHeader, read_gguf_header
from tests.counted_lines import lines_run

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
F32, Q8_0 = 0, 8


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def strings(values: list[str]) -> bytes:
    return struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))


def gguf(entries: list[tuple[str, int, bytes]], tensors: list[tuple[str, list[int], int, int]], data: int) -> bytes:
    """A file of version 3: keys with type and raw value; tensors with shape, type and offset; bytes of data."""
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries))
    for key, value_type, value in entries:
        header += text(key) + struct.pack("<I", value_type) + value
    for name, shape, tensor_type, offset in tensors:
        header += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        header += struct.pack("<IQ", tensor_type, offset)
    return header + b"\0" * (-len(header) % 32) + b"\0" * data


TOKENS = ["a", "longest token", "<|im_end|>", "<added>"]
ENTRIES = [
    ("general.architecture", STRING, text("bert")),
    ("general.name", STRING, text("tiny 🧾")),
    ("bert.embedding_length", UINT32, struct.pack("<I", 384)),
    ("bert.context_length", UINT32, struct.pack("<I", 512)),
    ("bert.attention.causal", BOOL, b"\0"),
    ("bert.pooling_type", UINT32, struct.pack("<I", 1)),
    ("bert.layer_norm", FLOAT32, struct.pack("<f", 0.5)),
    ("tokenizer.chat_template", STRING, text("{{ messages }}")),
    ("tokenizer.ggml.tokens", ARRAY, strings(TOKENS)),
    ("tokenizer.ggml.scores", ARRAY, struct.pack("<IQ", FLOAT32, 100) + b"\0" * 400),
    ("tokenizer.ggml.token_type", ARRAY, struct.pack("<IQ4i", INT32, 4, 1, 1, 3, 4)),
]
TENSORS = [("a", [4, 8], F32, 0), ("b", [64], Q8_0, 128)]
WHOLE = gguf(ENTRIES, TENSORS, 128 + 68)


def read(path: Path, content: bytes) -> GgufHeader:
    path.write_bytes(content)
    return read_gguf_header(path)


def test_what_a_model_says_of_itself_is_read(tmp_path: Path) -> None:
    header = read(tmp_path / "m.gguf", WHOLE)
    assert (header.architecture, header.name) == ("bert", "tiny 🧾")
    assert (header.embedding_length, header.context_length, header.pooling_type) == (384, 512, 1)
    assert header.is_encoder
    assert header.chat_template == "{{ messages }}"
    assert header.longest_token_bytes == len("longest token")
    assert header.special_tokens == {2: "<|im_end|>", 3: "<added>"}
    assert "tokenizer.ggml.scores" not in header.metadata


def test_token_types_may_stand_before_the_tokens(tmp_path: Path) -> None:
    header = read(tmp_path / "m.gguf", gguf(ENTRIES[::-1], [], 0))
    assert header.special_tokens == {2: "<|im_end|>", 3: "<added>"}


def test_a_model_that_says_nothing_has_no_properties(tmp_path: Path) -> None:
    header = read(tmp_path / "m.gguf", gguf([("x.y", STRING, text("z"))], [], 0))
    assert (header.architecture, header.name, header.embedding_length, header.chat_template) == (
        "unknown",
        None,
        None,
        None,
    )
    assert not header.is_encoder


@pytest.mark.parametrize("missing", [1, 68, 69, 196])
def test_a_truncated_model_says_how_much_is_missing(tmp_path: Path, missing: int) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(ModelUnreadableError) as caught:
        read(path, WHOLE[:-missing])
    message = str(caught.value)
    assert f"the last {missing} of its {len(WHOLE):,} bytes are missing" in message
    assert str(path) in message
    assert message.endswith("copy or download it again.")


def test_a_header_that_breaks_off_anywhere_is_said_to(tmp_path: Path) -> None:
    for length in range(24, len(WHOLE) - 230, 7):
        with pytest.raises(ModelUnreadableError, match="not a whole GGUF file"):
            read(tmp_path / "m.gguf", WHOLE[:length])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has 0 bytes"),
        (b"GGUF", "it has 4 bytes"),
        (b"PK\x03\x04" + b"\0" * 50, r"begins with b'PK\\x03\\x04' instead of b'GGUF'"),
        (b"GGUF" + struct.pack("<I", 99) + b"\0" * 50, "format version is 99"),
    ],
)
def test_what_is_no_model_is_said_to(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(ModelUnreadableError, match=reason):
        read(tmp_path / "m.gguf", content)


def test_a_path_without_a_file_is_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.gguf", tmp_path):
        with pytest.raises(ModelNotFoundError, match=str(path)):
            read_gguf_header(path)


@pytest.mark.parametrize(("value_type", "value"), [(UINT32, struct.pack("<I", 0)), (STRING, text("x"))])
def test_an_alignment_that_makes_no_sense_is_a_damaged_file(tmp_path: Path, value_type: int, value: bytes) -> None:
    with pytest.raises(ModelUnreadableError, match="not a whole GGUF file"):
        read(tmp_path / "m.gguf", gguf([("general.alignment", value_type, value)], TENSORS, 196))


def test_arrays_in_arrays_without_end_are_a_damaged_file(tmp_path: Path) -> None:
    nested = struct.pack("<IQ", ARRAY, 1) * 5000
    with pytest.raises(ModelUnreadableError, match="not a whole GGUF file"):
        read(tmp_path / "m.gguf", gguf([("x", ARRAY, nested)], [], 0))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(4, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_model_is_read_or_refused_and_never_breaks_the_reader(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(WHOLE)
    for place, value in changes:
        content[place] = value
    try:
        header = read(tmp_path / "m.gguf", bytes(content))
    except ModelUnreadableError:
        return
    said = (header.name, header.context_length, header.embedding_length, header.pooling_type, header.chat_template)
    assert all(value is None or isinstance(value, (str, int)) for value in said)
    assert kv_bytes_per_token(header, {}) >= 0


@pytest.mark.parametrize("first_bytes", [24, 100, 300, 1000])
def test_a_header_that_is_longer_than_what_is_read_at_first_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_bytes: int
) -> None:
    whole = read(tmp_path / "m.gguf", WHOLE)
    monkeypatch.setattr(gguf_header, "FIRST_BYTES", first_bytes)
    assert read(tmp_path / "m.gguf", WHOLE) == whole


def test_one_that_goes_on_and_on_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_header, "MOST_HEADER_BYTES", 10 << 20)
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("x") + struct.pack("<IIQ", ARRAY, FLOAT32, 2**30))
    os.truncate(path, 1 << 33)  # which takes no room on the disk
    with pytest.raises(ModelUnreadableError, match="goes beyond 10 MB, farther than any model's"):
        read_gguf_header(path)


DAMAGED = {
    "five dimensions": gguf(ENTRIES, [("a", [1] * 5, F32, 0)], 0),
    "dimensions without end": WHOLE[: WHOLE.index(text("b") + struct.pack("<I", 1)) + 9]
    + struct.pack("<I", 2**31)
    + b"\xff" * 1000,
    "a key twice": gguf([*ENTRIES, ENTRIES[0]], [], 0),
    "keys without end": b"GGUF" + struct.pack("<IQQ", 3, 0, 2**62) + b"\0" * 1000,
    "tensors without end": b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0) + b"\0" * 1000,
    "an array of arrays": gguf([("x", ARRAY, struct.pack("<IQ", ARRAY, 1) + strings([]))], [], 0),
    "texts without end": gguf([("x", ARRAY, struct.pack("<IQ", STRING, 2**61))], [], 0),
    "numbers without end": gguf([("x", ARRAY, struct.pack("<IQ", FLOAT32, 2**61))], [], 0),
    "token types without end": gguf([("tokenizer.ggml.token_type", ARRAY, struct.pack("<IQ", INT32, 2**61))], [], 0),
    "an alignment of zero": gguf([("general.alignment", UINT32, struct.pack("<I", 0))], [], 0),
    "an alignment in words": gguf([("general.alignment", STRING, text("32"))], [], 0),
    "a length in words": gguf([("bert.context_length", STRING, text("many"))], [], 0),
    "layers without heads": gguf([("bert.attention.head_count_kv", ARRAY, struct.pack("<IQ", INT32, 0))], [], 0),
    "a token id that is a list": gguf(
        [("tokenizer.ggml.eos_token_id", ARRAY, struct.pack("<IQ", FLOAT32, 1) + b"\0" * 4)], [], 0
    ),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_no_model_has_is_not_believed(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ModelUnreadableError, match="its header breaks off or makes no sense"):
        read(tmp_path / "m.gguf", content)


@pytest.mark.parametrize("kind", ["keys", "texts", "tokens", "tensors", "numbers"])
def test_the_work_grows_with_the_header_and_not_with_its_square(tmp_path: Path, kind: str) -> None:
    def model(count: int) -> Path:
        names = [f"{kind} {number}" for number in range(count)]
        entries, tensors = list(ENTRIES), []
        if kind == "keys":
            entries += [(name, UINT32, b"\0" * 4) for name in names]
        elif kind == "texts":
            entries.append(("x", ARRAY, strings(names)))
        elif kind == "tokens":
            entries = [
                ("tokenizer.ggml.tokens", ARRAY, strings(names)),
                ("tokenizer.ggml.token_type", ARRAY, struct.pack("<IQ", INT32, count) + b"\x03\0\0\0" * count),
            ]
        elif kind == "tensors":
            tensors = [(name, [2**63] * 4, F32, 0) for name in names]
        else:
            entries.append(("x", ARRAY, struct.pack("<IQ", FLOAT32, count) + b"\0" * 4 * count))
        path = tmp_path / f"{count}.gguf"
        path.write_bytes(gguf(entries, tensors, 0))
        return path

    def work(count: int) -> int:
        path = model(count)

        def read_it() -> None:
            with contextlib.suppress(ModelUnreadableError):  # the tensors that it claims are not there
                read_gguf_header(path)

        return lines_run(read_it)

    assert work(4000) < 6 * work(1000)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(ModelUnreadableError, match="cannot be read: it is not a file but a named pipe"):
        read_gguf_header(tmp_path / "m.gguf")
    with pytest.raises(ModelNotFoundError):
        read_gguf_header(tmp_path)
