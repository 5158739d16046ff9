from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.documents.chunking import Chunking
from airflow_mullama.documents.splitter import NoRoomError, Span, Splitter

PROSE = (
    "The parcel never came. I asked twice, on Monday and on Friday. Nobody answered me!\n\n"
    "So I wrote a letter. It was long, and it was polite. Dr. Smith read it. He laughed.\n\n"
    "In the end the parcel came. It was empty."
)
WORDS_AND_MARKS = re.compile(r"\w{1,4}|[^\w\s]")


def by_words(text: str) -> int:
    """As an encoder counts: parts of words, and two tokens around all."""
    return len(WORDS_AND_MARKS.findall(text)) + 2


def by_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass")) // 2


def merging(text: str) -> int:
    """Tokens that span borders, also such that more text has fewer of them."""
    return len(re.findall(r"..s\b|.{1,3}", text, re.DOTALL)) + 1


def split(text: str, count: Callable[[str], int] = by_words, **chunking: object) -> list[Span]:
    return list(Splitter(Chunking(**chunking), count).spans(text))  # type: ignore[arg-type]


def texts(text: str, spans: list[Span]) -> list[str]:
    return [text[span.start : span.end] for span in spans]


def test_a_short_text_is_one_chunk() -> None:
    assert split(PROSE, tokens=500) == [Span(0, len(PROSE), by_words(PROSE))]
    assert split("", tokens=8) == [Span(0, 0, 2)]
    assert split(" \n ", tokens=8) == [Span(0, 3, 2)]


def test_chunks_end_with_sentences() -> None:
    assert texts(PROSE, split(PROSE, tokens=26)) == [
        "The parcel never came. I asked twice, on Monday and on Friday. ",
        "Nobody answered me!\n\nSo I wrote a letter. It was long, and it was polite. ",
        "Dr. Smith read it. He laughed.\n\nIn the end the parcel came. It was empty.",
    ]


def test_chunks_end_with_paragraphs_that_fill_half_of_them() -> None:
    assert texts(PROSE, split(PROSE, tokens=34, by="paragraph")) == [
        "The parcel never came. I asked twice, on Monday and on Friday. Nobody answered me!\n\n",
        "So I wrote a letter. It was long, and it was polite. Dr. Smith read it. He laughed.\n\n",
        "In the end the parcel came. It was empty.",
    ]
    heading = "Title\n\n" + PROSE
    assert texts(heading, split(heading, tokens=34, by="paragraph"))[0].startswith("Title\n\nThe parcel never came.")


def test_chunks_by_tokens_end_with_words() -> None:
    found = texts(PROSE, split(PROSE, tokens=12, by="token"))
    assert found[:2] == ["The parcel never came. I asked ", "twice, on Monday and on "]


def test_an_overlap_is_of_whole_sentences_where_one_has_room_and_else_of_words() -> None:
    found = texts(PROSE, split(PROSE, tokens=26, overlap=8))
    assert found[0].endswith("I asked twice, on Monday and on Friday. ")
    assert found[1].startswith("on Monday and on Friday. Nobody answered me!")
    found = texts(PROSE, split(PROSE, tokens=30, overlap=15))
    assert found[1].startswith("Nobody answered me!\n\nSo I wrote a letter. ")  # one whole sentence


def test_sentences_of_chinese_and_japanese_are_cut_at_their_own_full_stops() -> None:
    text = "今日は晴れです。明日は雨でしょう。傘を持って行きます。駅まで歩きます。"
    assert texts(text, split(text, lambda part: len(part) + 2, tokens=20)) == [
        "今日は晴れです。明日は雨でしょう。",
        "傘を持って行きます。駅まで歩きます。",
    ]


def test_what_fits_into_no_chunk_is_said() -> None:
    with pytest.raises(NoRoomError, match="the character at 6 "):
        split("Hello " + "a" + "\u0301" * 100, by_bytes, tokens=8)
    with pytest.raises(NoRoomError, match="stands around a chunk has 9 tokens"):
        split("Hello", lambda text: len(text) + 9, tokens=9)


def test_the_tokenizer_is_never_given_much_more_than_a_chunk() -> None:
    longest = 0

    def count(text: str) -> int:
        nonlocal longest
        longest = max(longest, len(text))
        return by_words(text)

    for text in ("x" * 50_000, "word " * 10_000, "One. " * 10_000, " " * 50_000, "\n" * 50_000):
        spans = split(text, count, tokens=32, overlap=8)
        assert spans[-1].end == len(text)
    assert longest <= 32 * 32


SOME_TEXT = st.text(
    st.sampled_from("abcdE. !?\n\r\t,12-'\"()。、漢字かé\u0301\u200d👩🇩🇪각\u1100\u1161\u2029क्षि\u0600s"), max_size=120
)


@given(
    text=st.one_of(SOME_TEXT, st.lists(st.sampled_from(PROSE.split(" ")), max_size=60).map(" ".join)),
    tokens=st.integers(12, 60),
    overlap_share=st.floats(0, 0.5),
    by=st.sampled_from(["sentence", "paragraph", "token"]),
    count=st.sampled_from([by_words, by_bytes, merging]),
)
def test_chunks_keep_their_promises(
    text: str, tokens: int, overlap_share: float, by: str, count: Callable[[str], int]
) -> None:
    overlap = int(tokens * overlap_share)
    try:
        spans = split(text, count, tokens=tokens, overlap=overlap, by=by)
    except NoRoomError:
        clusters = regex.findall(r"\X", text)
        assert max(count(cluster) for cluster in clusters) > tokens
        return
    borders = {0, *(match.end() for match in regex.finditer(r"\X", text))}
    assert (spans[0].start, spans[-1].end) == (0, len(text))
    for span in spans:
        assert span.tokens == count(text[span.start : span.end]) <= tokens
        assert {span.start, span.end} <= borders
    for one, other in itertools.pairwise(spans):
        assert one.start < other.start <= one.end < other.end
        assert count(text[other.start : one.end]) - count("") <= overlap
    assert spans == split(text, count, tokens=tokens, overlap=overlap, by=by)
