from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.engines.stop_texts import cut_at_stop


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        (["one", " two"], [], ("one two", 2, False)),
        ([], ["x"], ("", 0, False)),
        (["one", " two", " three"], ["two"], ("one ", 2, True)),
        (["o", "n", "e", "!"], ["ne"], ("o", 3, True)),
        (["ab", "cd"], ["c", "bc"], ("a", 2, True)),
        (["stop here"], ["here", "stop"], ("", 1, True)),
        (["aa", "ab"], ["aab"], ("a", 2, True)),
    ],
)
def test_it_cuts_at_the_first_stop_text_completed(
    pieces: list[str], stop: list[str], expected: tuple[str, int, bool]
) -> None:
    assert cut_at_stop(pieces, stop) == expected


@given(pieces=st.lists(st.text("ab ", max_size=4), max_size=12), stop=st.lists(st.text("ab", min_size=1, max_size=3)))
def test_no_stop_text_is_left_and_nothing_else_is_taken(pieces: list[str], stop: list[str]) -> None:
    text, count, stopped = cut_at_stop(pieces, stop)
    whole = "".join(pieces)
    assert whole.startswith(text)
    assert not any(word in text for word in stop)
    assert stopped == any(word in whole for word in stop)
    if stopped:
        assert not any(word in "".join(pieces[: count - 1]) for word in stop)
        assert any(whole.startswith(word, len(text)) for word in stop)
