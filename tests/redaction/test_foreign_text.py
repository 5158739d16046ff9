"""Words of others, made printable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.errors import InputNotFoundError, MissingColumnError, MullamaError
from airflow_mullama.redaction.credentials import Secret
from airflow_mullama.redaction.foreign_text import MOST_LOOKED_AT, printable
from airflow_mullama.rows import ErrorType, RowError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode, 漢字, 👩\u200d💻", "plain, ünïcode, 漢字, 👩\u200d💻"),
        ("\x1b]0;owned\x07\x1b[2J", "\\x1b]0;owned\\x07\\x1b[2J"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("one\r\n  two\tthree\x00", "one two three\\x00"),
        ("half \ud800 of a pair", "half \\ud800 of a pair"),
        ("exe\u202egnp.txt\u2066", "exe\\u202egnp.txt\\u2066"),
        ("a\u2028b\x85c", "a b c"),
    ],
)
def test_control_characters_are_written_out_and_lines_joined(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_long_text_is_cut_and_says_how_long_it_was() -> None:
    assert printable("x" * 5_000, 10) == "xxxxxxxxxx… (5,000 characters)"
    assert printable("x" * 10, 10) == "x" * 10


@given(st.text(st.characters()), st.integers(1, 50))
def test_whatever_comes_is_one_short_line_of_utf8(text: str, most: int) -> None:
    shown = printable(text, most)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
    assert len(shown) <= most + 40


def test_no_part_of_a_key_is_left_where_a_text_is_cut() -> None:
    key = Secret("sk-an-uncommon-key-" + "z" * 30)
    assert "uncommon" not in printable(" " * (MOST_LOOKED_AT - 25) + key, MOST_LOOKED_AT)
    assert "uncommon" not in printable("x" * 90 + key, 100)


@pytest.mark.parametrize("error", [MullamaError, MissingColumnError, InputNotFoundError])
def test_every_error_of_ours_is_printable_and_without_keys(error: type[MullamaError]) -> None:
    key = Secret("sk-in-an-exception")
    assert str(error(f"the server says \x1b[2J\n{key}")) == "the server says \\x1b[2J ***"


def test_so_is_a_rows_error() -> None:
    key = Secret("sk-in-a-row")
    error = RowError(ErrorType.HTTP_ERROR, f"\x1b[2J{key}" + "x" * 10**6)
    assert error.message.startswith("\\x1b[2J***xx")
    assert len(error.message) < 2_100
