from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.evaluation.accepted_file import write_accepted_file
from airflow_mullama.evaluation.outputs import open_output
from airflow_mullama.evaluation.shares import added, counts_of, differences, read_shares
from airflow_mullama.storage.filesystems import resolve_location


def counts(success: int, failed: int = 0, **labels: int) -> dict[str, dict[str, int]]:
    return {"status": {"success": success, "failed": failed}, "label": labels}


def test_a_share_that_moved_far_is_told_with_its_numbers():
    found = list(differences("day", counts(100, billing=41, other=59), counts(1000, billing=200, other=800)))

    assert [(one.figure, one.value) for one in found] == [("label", "billing"), ("label", "other")]
    assert str(found[0]) == "label 'billing' of day is 41.0% of 100 rows, and was 20.0%"


@pytest.mark.parametrize(
    ("now", "then"),
    [
        (counts(1000, billing=250, other=750), counts(1000, billing=200, other=800)),  # by less than ten points
        (counts(10, billing=4, other=6), counts(1000, billing=200, other=800)),  # ten rows say little
        (counts(0), counts(1000, billing=200)),
        (counts(10, billing=10), counts(0)),
    ],
)
def test_what_is_small_or_of_few_rows_is_not(now: dict[str, dict[str, int]], then: dict[str, dict[str, int]]):
    assert list(differences("day", now, then)) == []


def test_a_status_or_a_label_that_is_new_or_gone_counts_too():
    found = list(differences("day", counts(50, failed=50, billing=50), counts(100, billing=100)))

    assert {(one.figure, one.value) for one in found} == {
        ("status", "failed"),
        ("status", "success"),
        ("label", "billing"),
    }


def test_outputs_are_counted_and_what_was_accepted_comes_back(labelled: Callable[..., Path], tmp_path: Path):
    (file,) = open_output(labelled(["billing", "billing", "shipping", "nonsense", None], [None] * 5))
    place = resolve_location(tmp_path / "accepted.json")

    assert read_shares(place) is None
    write_accepted_file(place, added([counts_of(file), counts_of(file)]))

    assert read_shares(place) == {
        "status": {"success": 6, "invalid_output": 2, "skipped": 2},
        "error_type": {"schema_mismatch": 2, "null_input": 2},
        "label": {"billing": 4, "shipping": 2},
    }


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path):
    (tmp_path / "accepted.json").write_text("[1]")

    with pytest.raises(InputUnreadableError, match="holds no accepted shares"):
        read_shares(resolve_location(tmp_path / "accepted.json"))
