from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_mullama import GenerateJob, run_job
from airflow_mullama.errors import BudgetSpentError

ROWS, N_PARALLEL = 2500, 2
TOKENS_OF_ROW = 8  # four words in, and the same four out


@pytest.fixture
def lake(tmp_path: Path, write_parquet: Callable[..., Path]) -> Path:
    for day in ("ds=1", "ds=2"):
        write_parquet(tmp_path / "lake" / day / "a.parquet", [f"{day} row number {row}" for row in range(ROWS)])
    return tmp_path / "lake"


def job(**arguments: Any) -> GenerateJob:
    options = {"n_parallel": N_PARALLEL, **arguments.pop("engine_options", {})}
    return GenerateJob(
        **{"model": "echo", "prompt_column": "text", "chunk_rows": 100, "engine_options": options, **arguments}
    )


def test_tokens_are_spent_up_to_the_budget_and_the_next_run_goes_on(lake: Path, tmp_path: Path):
    with pytest.raises(BudgetSpentError, match=r"The budget is spent \([\d,]+ tokens, of max_tokens_total=200\) at"):
        run_job(job(max_tokens_total=200), lake, tmp_path / "out")
    assert not list((tmp_path / "out").glob("ds=*/*.parquet"))  # the rows that the engine had are waited for

    rest = run_job(job(), lake, tmp_path / "out")

    paid = rest.resumed_rows * TOKENS_OF_ROW
    assert rest.resumed_rows + rest.computed_rows == 2 * ROWS
    assert paid >= 200
    assert rest.resumed_rows < ROWS  # one window, at most


def test_a_budget_is_of_all_partitions_together(lake: Path, tmp_path: Path):
    enough_for_one = ROWS * TOKENS_OF_ROW + 1

    with pytest.raises(BudgetSpentError, match="ds=2"):
        run_job(job(max_tokens_total=enough_for_one), lake, tmp_path / "out")

    assert (tmp_path / "out" / "ds=1" / "part-00000.parquet").exists()


def test_seconds_are_those_in_which_the_engine_has_rows(lake: Path, tmp_path: Path):
    with pytest.raises(BudgetSpentError, match=r"s of the engine, of max_seconds=0\.2"):
        run_job(job(max_seconds=0.2, engine_options={"delay_s": 0.001}), lake, tmp_path / "out")

    assert run_job(job(), lake, tmp_path / "out").resumed_rows > 0


def test_a_budget_that_suffices_is_never_heard_of(lake: Path, tmp_path: Path):
    manifest = run_job(job(max_tokens_total=2 * ROWS * TOKENS_OF_ROW, max_seconds=1000.0), lake, tmp_path / "out")

    assert manifest.rows == 2 * ROWS


def test_rows_that_cost_nothing_are_done_with_a_spent_budget(lake: Path, tmp_path: Path, write_parquet: Any):
    nothing = write_parquet(tmp_path / "lake" / "ds=3" / "a.parquet", [None] * 50).parent

    first, last = lake / "ds=1", nothing
    exactly = ROWS * TOKENS_OF_ROW
    manifest = run_job(job(max_tokens_total=exactly), [first, last], tmp_path / "out")

    assert manifest.rows == ROWS + 50


def test_answers_that_are_asked_for_again_are_paid_for_too(lake: Path, tmp_path: Path):
    faults = {"faults": {"fail_once": list(range(ROWS))}}

    with pytest.raises(BudgetSpentError):
        run_job(
            job(max_tokens_total=ROWS * TOKENS_OF_ROW // 2, engine_options=faults, max_error_ratio=1.0),
            lake / "ds=1",
            tmp_path / "out",
        )


def test_what_is_up_to_date_costs_nothing_of_it(lake: Path, tmp_path: Path):
    run_job(job(), lake, tmp_path / "out")

    assert run_job(job(max_tokens_total=1), lake, tmp_path / "out").skipped == "up_to_date"
