from __future__ import annotations

import re

import pytest

from airflow_mullama.storage.text.json_lines import parse_line


def test_an_object_is_taken_as_it_is() -> None:
    line = b'{"n": 12345678901234567, "x": 1.5, "s": "\\u00e9 \\ud83d\\ude00", "o": {"a": [null, true]}}'
    assert parse_line(line) == {"n": 12345678901234567, "x": 1.5, "s": "é 😀", "o": {"a": [None, True]}}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1', "is not JSON: Expecting ',' delimiter at character 8"),
        (b'{"a": 1}{"a": 2}', "is not JSON: Extra data at character 9"),
        (b"null", "holds no JSON object"),
        (b"[1]", "holds no JSON object"),
        (b'{"a": "\xff"}', "is not UTF-8 (invalid start byte at byte 7)"),
        (b'{"a": 1, "a": 2}', "has a name twice in one object"),
        (b'{"a": NaN}', "holds NaN, which JSON does not have"),
        (b'{"a": 1e999}', "holds 1e999, which is beyond float64"),
        (b'{"a": ' + b"9" * 5000 + b"}", "holds an integer of more than 64 bits"),
        (b'{"a": "\\ud83d"}', "holds half of a surrogate pair, which is no character"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "has more than 32 levels"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "has more than 32 levels"),
        (None, "is longer than 16 MiB"),
    ],
)
def test_a_line_that_cannot_be_kept_as_it_is_says_why(line: bytes | None, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        parse_line(line)
