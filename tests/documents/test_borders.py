from __future__ import annotations

import pytest
import regex

from airflow_mullama.documents.borders import TextBorders


def _sentences(text: str) -> list[str]:
    ends = TextBorders(text).sentences(0, len(text))
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize(
    "sentences",
    [
        ["It came. ", "It broke! ", "Why? ", "Nobody knows"],
        ["It costs 3.14 euros. ", "Not 3.", "ASCII"],  # before a digit none ends
        ['"Stop." ', "He left.) ", "(So did she.)"],
        ["He said etc. and left. ", "Then it rained."],  # a small letter follows: it goes on
        ["U.S. ", "Army"],
        ["Wait, what?! ", "Yes."],
        ["今日は晴れです。", "明日は雨でしょう！", "傘を持って？", "はい"],
        ["我们收到了。", "谢谢！", "3.5公斤。"],
        ["Привет. ", "Как дела?"],
        ["مرحبا. ", "كيف حالك؟ ", "جيد"],
        ["A heading\n\n", "Text that follows.\n", "More"],
        ["The line ends here and\ngoes on in the next one. ", "Then another.\n", "Last"],
        ["One.\r\n", "Two.\r\n"],
        ["One.\u2029", "Two."],
        ["Zoe\u0308. ", "Next."],
        ["\n\n\n"],
        ["no end at all"],
    ],
)
def test_sentences_end_where_unicode_ends_them(sentences: list[str]) -> None:
    assert _sentences("".join(sentences)) == sentences


def test_paragraphs_end_at_empty_lines() -> None:
    text = "A title\n\nOne line\nand another.\n  \n\n  Third.\r\n\r\nFourth\n"
    ends = TextBorders(text).paragraphs(0, len(text))
    assert [text[start:end] for start, end in zip([0, *ends], ends, strict=False)] == [
        "A title\n\n",
        "One line\nand another.\n  \n\n  ",
        "Third.\r\n\r\n",
        "Fourth\n",
    ]


def test_words_keep_their_space_and_punctuation() -> None:
    text = "Don't (ever) go, e.g. to example.com/a_b: 漢字かな, “né”!"
    ends = TextBorders(text).words(0, len(text))
    assert [text[start:end] for start, end in zip([0, *ends], ends, strict=False)] == [
        *("Don't ", "(ever) ", "go, ", "e.g. ", "to ", "example.com/", "a_b: ", "漢", "字", "か", "な, ", "“né”!"),
    ]


def test_borders_between_two_places_only() -> None:
    borders = TextBorders("One. Two. Three.")
    assert borders.sentences(0, 9) == [5]
    assert borders.sentences(5, 10) == [10]
    assert borders.words(5, 10) == [10]
    assert borders.clusters(5, 7) == [6, 7]


@pytest.mark.parametrize(
    "cluster", ["e\u0301", "\r\n", "👩\u200d👩\u200d👧", "🇩🇪", "각", "\u1100\u1161\u11a8", "क्षि", "\u0600a"]
)
def test_no_border_lies_inside_a_cluster(cluster: str) -> None:
    assert regex.fullmatch(r"\X", cluster)
    for before, after in (("a. ", " b"), (". ", "x"), ("\n\n", "."), ("漢。", "字")):
        text = before + cluster + after
        borders = TextBorders(text)
        inside = set(range(len(before) + 1, len(before) + len(cluster)))
        for ends in (borders.paragraphs, borders.sentences, borders.words, borders.clusters):
            assert not inside & set(ends(0, len(text)))
