"""A preview's forecast against the run that it is of: tokens and seconds of 6,000 tickets, told from 200 of them."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama import GenerateJob, run_partition
from airflow_mullama.demo.tickets.generate import PROMPT_TEMPLATE, generate_tickets
from airflow_mullama.evaluation.forecast import Pace, forecast
from airflow_mullama.evaluation.outputs import open_output

GOAL = 0.15


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--sample", type=int, default=200)
    arguments = parser.parse_args()
    job = GenerateJob(model="demo:ticket-tagger", prompt_template=PROMPT_TEMPLATE, max_tokens=48)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.parquet")
        texts = [ticket.text for ticket in generate_tickets(arguments.rows, seed=7)]
        pq.write_table(pa.table({"text": texts}), source)
        pace = Pace()
        sample = replace(job, sample=arguments.sample)
        manifest = run_partition(sample, source, Path(folder, "sample.parquet"), listeners=[pace])
        load = manifest.seconds.model_load
        told = forecast(open_output(Path(folder, "sample.parquet")), manifest, pace, arguments.rows, load)
        whole = run_partition(job, source, Path(folder, "out.parquet"), listeners=[])
    for name, forecasted, real in (
        ("prompt tokens", told.prompt_tokens, whole.prompt_tokens),
        ("completion tokens", told.completion_tokens, whole.completion_tokens),
        ("engine seconds", told.seconds, whole.seconds.engine),
    ):
        value, low, high = forecasted.value or 0.0, forecasted.low or 0.0, forecasted.high or 0.0
        print(
            f"{name}: forecast {value:,.1f} ({low:,.1f} to {high:,.1f}), real {real:,.1f} = {value / real:.2f} of it "
            f"(goal: within {GOAL:.0%})"
        )


if __name__ == "__main__":
    main()
