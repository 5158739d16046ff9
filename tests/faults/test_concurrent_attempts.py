"""A task that outlived its supervisor and the one that took its place: two attempts at one partition at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.fail_points import STEPS

SCRIPTS = Path(__file__).parent
ROWS = 120
CHUNK_ROWS = 15
SAME_IN_EVERY_ROUND = 30  # rows whose request an earlier output answers
PATIENCE_SECONDS = 60.0


class Attempts:
    """A process that makes attempts when it is told to."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / "concurrent_attempts.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.answer() == {"ready": True}

    def tell(self, value: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process is gone"
        return json.loads(line)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def two_attempts(script_environment: dict[str, str]) -> Iterator[tuple[Attempts, Attempts]]:
    first, second = Attempts(script_environment), Attempts(script_environment)
    yield first, second
    first.close()
    second.close()


class Lake:
    """One partition whose input is replaced every round."""

    def __init__(self, folder: Path) -> None:
        self.source, self.output = folder / "tickets.parquet", folder / "out" / "answers.parquet"

    def order(self, seed: int, hold: str | None = None) -> dict[str, Any]:
        options = {"n_parallel": 2}
        job = {"model": "echo", "prompt_template": "{text}", "chunk_rows": CHUNK_ROWS, "engine_options": options}
        return {"job": job, "input": str(self.source), "output": str(self.output), "seed": seed, "hold": hold}

    def begin(self, number: int) -> pa.Table:
        """Write the round's input."""
        texts = [f"ticket {row} of round {0 if row < SAME_IN_EVERY_ROUND else number}" for row in range(ROWS)]
        table = pa.table({"round": pa.array([number] * ROWS), "text": texts})
        pq.write_table(table, self.source)
        return table

    def assert_whole(self, expected: pa.Table) -> None:
        output = pq.read_table(self.output)
        assert output.select(expected.column_names).equals(expected)
        assert output.column("response").to_pylist() == expected.column("text").to_pylist()
        assert set(output.column("status").to_pylist()) == {"success"}
        assert sorted(path.name for path in self.output.parent.iterdir()) == [self.output.name]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


@pytest.fixture
def reader(lake: Lake, script_environment: dict[str, str]) -> Iterator[Callable[[], dict[str, Any]]]:
    """A process that reads the output all the time; call it to end that and get what it saw."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "polling_reader.py"), str(lake.output), str(ROWS)],
        env=script_environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def finish() -> dict[str, Any]:
        stdout, _ = process.communicate(timeout=PATIENCE_SECONDS)
        return json.loads(stdout)

    yield finish
    process.kill()
    process.communicate(timeout=PATIENCE_SECONDS)


def assert_ended_well(*answers: dict[str, Any]) -> None:
    for answer in answers:
        assert answer["expected"], answer["message"]
        assert answer["outcome"] != "AccountingError", answer["message"]
        if answer["outcome"] == "ok":
            assert answer["rows"] == ROWS
            assert answer["status_counts"] == {"success": ROWS}
    assert "ok" in {answer["outcome"] for answer in answers}, answers


@pytest.mark.parametrize("step", STEPS)
def test_an_attempt_that_was_overtaken_goes_on_to_a_good_end(
    step: str, lake: Lake, two_attempts: tuple[Attempts, Attempts]
):
    """It stands still at a step while another attempt does everything and removes the stage."""
    late, quick = two_attempts
    for number in (1, 2):  # the second time, an older output is replaced
        expected = lake.begin(number)
        late.tell(lake.order(number, hold=step))
        assert late.answer() == {"held": step}
        quick.tell(lake.order(number))
        quick_answer = quick.answer()
        late.tell("go on")
        assert_ended_well(quick_answer, late.answer())
        lake.assert_whole(expected)


@pytest.mark.parametrize("rounds", [8, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_two_attempts_at_once_always_end_with_one_whole_output(
    rounds: int, lake: Lake, two_attempts: tuple[Attempts, Attempts], reader: Callable[[], dict[str, Any]]
):
    first, second = two_attempts
    for number in range(1, rounds + 1):
        expected = lake.begin(number)
        first.tell(lake.order(2 * number))
        second.tell(lake.order(2 * number + 1))
        assert_ended_well(first.answer(), second.answer())
        lake.assert_whole(expected)

    seen = reader()
    assert seen["wrong"] == []
    assert len(seen["rounds"]) > rounds // 2
    assert seen["reads"] > rounds
