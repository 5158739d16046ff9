from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import EmbedJob, GenerateJob, run_partition
from airflow_mullama.errors import ConfigurationError, InputUnreadableError
from airflow_mullama.evaluation.agreement import agree
from airflow_mullama.evaluation.compare import compare


@pytest.fixture
def two_ways(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """One input, answered by `echo` with one column and with another."""

    def run(first: list[str | None], second: list[str | None], **columns: object) -> tuple[Path, Path]:
        source = tmp_path / "in.parquet"
        pq.write_table(pa.table({"id": range(len(first)), "first": first, "second": second, **columns}), source)
        for name in ("first", "second"):
            job = GenerateJob(model="echo", prompt_column=name, max_error_ratio=1.0, max_tokens=7)
            run_partition(job, source, tmp_path / f"{name}.parquet")
        return tmp_path / "first.parquet", tmp_path / "second.parquet"

    return run


def test_rows_that_changed_are_counted_and_shown(two_ways: Callable[..., tuple[Path, Path]]):
    found = compare(*two_ways(["a", "b", "c", None], ["a", "x", None, None]))

    assert (found.rows, found.changed) == (4, 2)
    assert [(row.row, row.first, row.second) for row in found.shown_rows] == [
        (1, "b", "x"),
        (2, "c", "skipped: null_input"),
    ]
    assert found.statuses["success", "skipped"] == 1
    assert found.p_value is None


def test_which_is_better_is_judged_by_the_rows_that_only_one_has_right(two_ways: Callable[..., tuple[Path, Path]]):
    truth = ["yes"] * 20
    found = compare(*two_ways(["yes"] * 5 + ["no"] * 15, ["no"] + ["yes"] * 19, truth=truth), expected="truth")

    assert (found.right[True, False], found.right[False, True], found.right[True, True]) == (1, 15, 4)
    assert found.p_value == pytest.approx(2 * (1 + 16) / 2**16)
    notes = [note for section in found.sections() for note in section.notes]
    assert any(
        "The second is better, and not by chance" in note and "20 rows are a small sample" in note for note in notes
    )


def test_a_difference_that_chance_makes_is_called_so(two_ways: Callable[..., tuple[Path, Path]]):
    found = compare(*two_ways(["a", "b"], ["a", "c"], truth=["a", "b"]), expected="truth")

    assert any("no larger than chance" in note for section in found.sections() for note in section.notes)


def test_vectors_are_compared_by_their_direction(tmp_path: Path, write_parquet: Callable[..., Path]):
    source = write_parquet(tmp_path / "in.parquet", ["a", "b"])
    for name, normalize in (("first", True), ("second", False)):
        run_partition(
            EmbedJob(model="echo", text_column="text", normalize=normalize), source, tmp_path / f"{name}.parquet"
        )

    found = compare(tmp_path / "first.parquet", tmp_path / "second.parquet")

    assert (found.rows, found.changed) == (2, 0)
    assert found.cosines[1] == pytest.approx(1.0)


def test_outputs_of_other_rows_are_refused(two_ways: Callable[..., tuple[Path, Path]], tmp_path: Path):
    first, _ = two_ways(["a", "b"], ["a", "b"])
    kept = first.rename(tmp_path / "kept.parquet")
    others, _ = two_ways(["a", "z"], ["a", "b"])

    with pytest.raises(InputUnreadableError, match="in row 1 their column 'first' is not the same"):
        compare(kept, others)
    others.unlink()
    shorter, _ = two_ways(["a"], ["a"])
    with pytest.raises(InputUnreadableError, match="one has more of them"):
        compare(kept, shorter)


def test_outputs_of_other_partitions_or_kinds_are_refused(tmp_path: Path, write_parquet: Callable[..., Path]):
    source = write_parquet(tmp_path / "in.parquet", ["a"])
    run_partition(GenerateJob(model="echo", prompt_column="text"), source, tmp_path / "text.parquet")
    run_partition(EmbedJob(model="echo", text_column="text"), source, tmp_path / "vector.parquet")
    for name in ("1/a", "1/b", "2/a", "2/c"):
        run_partition(GenerateJob(model="echo", prompt_column="text"), source, tmp_path / f"{name}.parquet")

    with pytest.raises(ConfigurationError, match=r"different answers \(response and embedding\)"):
        compare(tmp_path / "text.parquet", tmp_path / "vector.parquet")
    with pytest.raises(ConfigurationError, match=r"'b\.parquet' is in one of them only"):
        compare(tmp_path / "1", tmp_path / "2")


def test_two_passes_of_a_judge_agree_or_do_not(labelled: Callable[..., Path]):
    first = labelled(["billing", "billing", "shipping", "shipping", None], [None] * 5, "one.parquet")
    second = first.with_name("two.parquet")
    labelled_again = labelled(["billing", "billing", "shipping", "shipping", None], [None] * 5, second.name)

    same = agree(first, labelled_again, "label")

    assert same.figures()["agreement"].value == 1
    assert same.figures()["kappa"].value == 1
    assert (same.rows, same.pairs.total()) == (5, 4)


def test_kappa_is_agreement_beyond_chance():
    from airflow_mullama.evaluation.agreement import cohen_kappa

    pairs = {("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}

    assert cohen_kappa(pairs) == pytest.approx(0.4)  # the usual example: observed 0.7, by chance 0.5
