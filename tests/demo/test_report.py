from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from airflow_mullama import GenerateJob, run_partition
from airflow_mullama.demo.report import RunResult, find_neighbours, shorten, show_figures, show_samples


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("short", "short"),
        ("two\n  lines\tand a tab", "two lines and a…"),
        ("\x00\u202ewritten from the right", "written from th…"),
        ("x" * 100_000, "x" * 15 + "…"),
        ("", ""),
    ],
)
def test_a_text_is_shown_on_one_line(text: str, line: str) -> None:
    assert shorten(text, 16) == line


def test_neighbours_say_it_in_other_words() -> None:
    texts = [
        "the parcel has not arrived at my house this week",
        "the parcel has not arrived at my house this month",  # nearly the same words
        "where is my delivery, nobody brought anything so far",
        "still waiting for what I ordered from your shop",
        "shipment lost on its way to me, please look for it",
        "cannot sign in since yesterday, password is rejected",
        "login fails every time although nothing was changed",
        "my account says that these credentials are wrong here",
        "no access to the profile, a reset does not help either",
    ]
    angles = np.array([0.0, 0.0, 0.1, 0.2, 0.3, 1.4, 1.5, 1.6, 1.7])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = dict(find_neighbours(texts, vectors))
    assert len(found) == 2
    for query, neighbours in found.items():
        side = range(5) if query < 5 else range(5, 9)
        assert query not in dict(neighbours)
        assert not {0, 1} <= {query, *dict(neighbours)}
        assert len(neighbours) == 3
        assert all(number in side for number in dict(neighbours))
        assert [cosine for _, cosine in neighbours] == sorted((cosine for _, cosine in neighbours), reverse=True)


def test_too_few_texts_have_no_neighbours() -> None:
    assert list(find_neighbours([], np.zeros((0, 2), np.float32))) == []
    assert list(find_neighbours(["one text of more than forty characters, alone"], np.ones((1, 2), np.float32))) == []


def shown(result: RunResult) -> str:
    console = Console(file=io.StringIO(), width=100)
    show_samples(console, result)
    show_figures(console, [result])
    file = console.file
    assert isinstance(file, io.StringIO)
    return " ".join(file.getvalue().split())


def test_figures_of_a_partition_that_is_up_to_date_are_those_it_was_computed_with(tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    texts = ["A ticket that is answered with itself, as it is", None, "[bold]no markup[/bold]"] * 10
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), source)
    job = GenerateJob(model="echo", prompt_template="{text}")
    first = run_partition(job, source, tmp_path / "out.parquet")
    text = shown(RunResult("tag_tickets", "generate", [first.to_json()], 1.0))
    assert "success 20" in text
    assert "skipped 10" in text
    assert "null skipped: null_input" in text
    assert "up to date" not in text

    second = run_partition(job, source, tmp_path / "out.parquet")
    result = RunResult("tag_tickets", "generate", [json.loads(json.dumps(second.to_json()))], 1.0)
    assert result.up_to_date == 1
    assert result.summary()["computed_rows"] == 2  # the others ask the same
    text = shown(result)
    assert "all 1 partitions are up to date, so no model was loaded" in text
    assert "success 20" in text
