from __future__ import annotations

from collections import Counter

import pytest

from airflow_mullama.evaluation.scores import LabelScore, NumberScore, TextScore, normalized


def test_precision_and_recall_are_of_the_rows_that_got_and_that_should_have_a_label():
    score = LabelScore()
    for expected, answer, rows in (("a", "a", 6), ("a", "b", 2), ("b", "b", 1), ("b", "a", 1), ("b", None, 2)):
        for _ in range(rows):
            score.add(expected, answer)

    labels = score.per_label()

    assert labels["a"]["precision"].value == pytest.approx(6 / 7)
    assert labels["a"]["recall"].value == pytest.approx(6 / 8)
    assert labels["b"]["precision"].value == pytest.approx(1 / 3)
    assert labels["b"]["recall"].value == pytest.approx(1 / 4)
    assert score.figures()["accuracy"].value == pytest.approx(7 / 12)
    f1_a, f1_b = 2 * 6 / (8 + 7), 2 * 1 / (4 + 3)
    assert score.figures()["macro_f1"].value == pytest.approx((f1_a + f1_b) / 2)
    assert score.confusions() == [("a", "b", 2), ("b", None, 2), ("b", "a", 1)]


def test_a_label_that_nobody_expects_lowers_no_mean():
    score = LabelScore(Counter({("a", "a"): 9, ("a", "x"): 1}))

    assert score.figures()["macro_f1"].value == pytest.approx(2 * 9 / (10 + 9))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Paris", " paris. "),
        ("“Paris”", "PARIS"),
        ("new  york", "New\nYork!"),
        ("ｆｕｌｌ", "full"),
        ("!!!", "!!!"),
        ("C++", "c++"),
    ],
)
def test_texts_that_a_reader_would_not_tell_apart_match(text: str, same: str):
    assert normalized(text) == normalized(same)


@pytest.mark.parametrize(("text", "other"), [("C++", "C"), ("-5", "5 %"), ("a.b", "ab")])
def test_marks_that_mean_something_stay(text: str, other: str):
    assert normalized(text) != normalized(other)


def test_a_text_matches_to_the_letter_or_nearly():
    score = TextScore()
    for expected, answer in (("Paris", "Paris"), ("Paris", "paris."), ("Paris", "Rome"), ("Paris", None)):
        score.add(expected, answer)

    figures = score.figures()

    assert (figures["exact_match"].value, figures["normalized_match"].value) == (0.25, 0.5)


def test_numbers_have_an_error_and_a_direction():
    score = NumberScore()
    for expected, answer in ((10, 10), (10, 13), (10, 9), (10, None), (10, float("nan"))):
        score.add(expected, answer)

    figures = score.figures()

    assert figures["exact_match"].value == pytest.approx(1 / 5)
    assert figures["mean_absolute_error"].value == pytest.approx(4 / 3)
    assert figures["mean_error"].value == pytest.approx(2 / 3)
    assert figures["mean_error"].rows == 3
