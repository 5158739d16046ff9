"""`airflow-mullama tune`: real runs of few rows, of the echo engine where only the loop around them matters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import GenerateJob
from airflow_mullama.commands.main import main
from airflow_mullama.commands.option_trials import Trial, alternatives, best_trial, report_lines, take_sample, tune
from airflow_mullama.demo.tickets import generate_tickets
from airflow_mullama.errors import ConfigurationError, InputNotFoundError, MissingColumnError


def write_rows(path: Path, rows: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": range(rows), "text": [f"row {row}" for row in range(rows)]}), path, row_group_size=7)
    return path


def echo_job(**options: Any) -> GenerateJob:
    return GenerateJob(model="echo", prompt_template="say {text}", engine_options=options)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestSample:
    def test_it_comes_from_all_over_the_partition_with_the_columns_that_are_needed(self, tmp_path: Path) -> None:
        sample = take_sample(echo_job(), str(write_rows(tmp_path / "in.parquet", 1000)), 16)
        assert sample.column_names == ["text"]
        rows = [int(text.split()[1]) for text in sample["text"].to_pylist()]
        assert len(set(rows)) == 16
        assert {row // 125 for row in rows} == set(range(8))

    @pytest.mark.parametrize(("rows", "wanted", "expected"), [(1, 200, 1), (5, 3, 3), (30, 30, 30), (1000, 999, 999)])
    def test_small_inputs_and_large_samples(self, tmp_path: Path, rows: int, wanted: int, expected: int) -> None:
        sample = take_sample(echo_job(), str(write_rows(tmp_path / "in.parquet", rows)), wanted)
        assert len(set(sample["text"].to_pylist())) == sample.num_rows == expected

    def test_what_is_wrong_with_the_input_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(InputNotFoundError):
            take_sample(echo_job(), str(tmp_path / "none"), 5)
        with pytest.raises(ConfigurationError, match="has no rows"):
            take_sample(echo_job(), str(write_rows(tmp_path / "empty.parquet", 0)), 5)
        job = GenerateJob(model="echo", prompt_template="{body}")
        with pytest.raises(MissingColumnError, match="body"):
            take_sample(job, str(write_rows(tmp_path / "in.parquet", 3)), 5)


class TestTrials:
    def sample(self, rows: int) -> pa.Table:
        return pa.table({"text": [f"row {row}" for row in range(rows)]})

    def test_what_the_user_decided_is_not_varied_and_unknown_options_are_left_out(self) -> None:
        by_option = {"n_parallel": [1, 2], "delay_s": [0.1], "flash_attn": [True]}
        assert alternatives(echo_job(delay_s=0.0), by_option) == [[{"n_parallel": 1}, {"n_parallel": 2}]]

    def test_the_faster_option_is_found(self) -> None:
        trials = tune(
            echo_job(delay_s=0.01, n_parallel=1), self.sample(60), [[{"delay_s": 0.0}]], 60, threading.Event()
        )
        assert [trial.rows for trial in trials] == [60, 60]
        assert best_trial(trials) is trials[1]

    def test_a_trial_that_takes_too_long_counts_as_far_as_it_came_and_the_others_get_as_many_rows(self) -> None:
        told: list[Trial] = []
        # Four seconds for each: a worker starts within them, however busy the machine is.
        tune(
            echo_job(delay_s=0.05, n_parallel=1),
            self.sample(100_000),
            [[{"n_parallel": 2}]],
            16,
            threading.Event(),
            told.append,
        )
        first, *others = told
        assert not first.whole
        assert 0 < first.rows < 100_000
        assert first.rows_per_second > 0
        assert others
        assert all(trial.rows <= first.rows for trial in others)

    def test_options_that_do_not_work_are_a_line_of_the_table(self) -> None:
        job = echo_job()
        trials = tune(job, self.sample(3), [[{"n_parallel": 100_000}]], 60, threading.Event())
        assert "must be a whole number from 1 to 256" in (trials[1].error or "")
        assert best_trial(trials) is trials[0]
        assert "n_parallel=100000: engine_options['n_parallel'] is 100000" in "\n".join(report_lines(job, trials))

    def test_an_interruption_keeps_what_is_known(self) -> None:
        interrupted = threading.Event()
        dimensions = [[{"n_parallel": 1}, {"n_parallel": 2}]]
        trials = tune(echo_job(), self.sample(3), dimensions, 60, interrupted, lambda trial: interrupted.set())
        assert [trial.options for trial in trials] == [{}]

    def test_options_that_make_rows_fail_are_never_the_best(self) -> None:
        slow = Trial({}, 100, 1, 10.0, 100.0, True)
        broken = Trial({"n_ctx": 32}, 100, 60, 500.0, 100.0, True)
        fast = Trial({"n_parallel": 8}, 100, 1, 20.0, 100.0, True)
        assert best_trial([slow, broken, fast]) is fast
        assert best_trial([slow, broken]) is slow

    def test_a_gain_within_the_noise_is_none(self) -> None:
        trials = [Trial({}, 9, 0, 100.0, 1.0, True), Trial({"n_parallel": 8}, 9, 0, 103.0, 1.0, True)]
        assert best_trial(trials) is trials[0]
        assert "nothing tried was clearly faster than the defaults" in report_lines(echo_job(), trials)


@pytest.mark.integration
class TestCommand:
    def run(self, *arguments: str) -> int:
        with pytest.raises(SystemExit) as exit_info:
            main(["tune", *arguments])
        assert isinstance(exit_info.value.code, int)
        return exit_info.value.code

    def test_two_candidates_on_a_real_model(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = tmp_path / "lake" / "in.parquet"
        source.parent.mkdir()
        pq.write_table(pa.table({"text": [ticket.text for ticket in generate_tickets(12, seed=5)]}), source)
        before = files_below(tmp_path)
        arguments = [str(source), "--prompt-template", "Tag this ticket: {text}", "--model", "demo:ticket-tagger"]
        options = ["--option", "n_threads=1", "--option", "n_ctx=512", "--try", "n_parallel=1,4"]
        assert self.run(*arguments, *options, "--max-tokens", "16", "--rows", "6", "--seconds", "120") == 0
        printed = capsys.readouterr().out
        table = [line.split() for line in printed.splitlines() if line[:10].strip()[:1].isdigit()]
        assert [(row[2], row[3], row[4]) for row in table] == [
            ("6", "0", "(defaults)"),
            ("6", "0", "n_parallel=1"),
            ("6", "0", "n_parallel=4"),
        ]
        assert all(float(row[0]) > 0 and float(row[1]) > 0 for row in table)
        assert "engine_options={'n_threads': 1, 'n_ctx': 512" in printed
        assert "--option n_threads=1 --option n_ctx=512" in printed
        assert files_below(tmp_path) == before

    def test_wrong_usage_is_said_before_anything_runs(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = str(write_rows(tmp_path / "in.parquet", 3))
        common = [source, "--prompt-column", "text", "--model", "echo"]
        for arguments, message in [
            (["--try", "n_parallel"], "not of the form NAME=VALUE,VALUE"),
            (["--try", "n_parallel=0"], "must be a whole number from 1 to 256"),
            (["--try", "speed=1"], "does not know"),
            (["--option", "speed=1"], "does not know"),
        ]:
            assert self.run(*common, *arguments) == 2
            assert message in capsys.readouterr().err

    def test_an_interrupt_ends_it_with_what_is_known(self, tmp_path: Path) -> None:
        source = write_rows(tmp_path / "lake" / "in.parquet", 400)
        before = files_below(tmp_path / "lake")
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "airflow_mullama.commands.main", "tune", str(source)),
                *("--prompt-column", "text", "--model", "echo", "--rows", "400", "--seconds", "300"),
                *("--option", "delay_s=0.02", "--option", "n_parallel=1", "--try", "dimensions=8,16,32"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"},
        )
        assert process.stderr is not None
        assert "defaults:" in process.stderr.readline()
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "(defaults)" in output
        assert time.monotonic() - started < 60
        assert files_below(tmp_path / "lake") == before
        assert list(scratch.iterdir()) == []
