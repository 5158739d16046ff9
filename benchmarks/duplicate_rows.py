"""Rows per second where nine of ten rows ask what another one asked, against as many rows that all differ."""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama import GenerateJob, run_partition
from airflow_mullama.demo.tickets import PROMPT_TEMPLATE, generate_tickets

COPIES = 10
TARGET = 8.0


def rows_per_second(texts: list[str], folder: Path) -> float:
    source = folder / "in.parquet"
    pq.write_table(pa.table({"text": texts}), source)
    job = GenerateJob(
        model="demo:ticket-tagger", prompt_template=PROMPT_TEMPLATE, max_tokens=48, engine_options={"n_threads": 1}
    )
    return run_partition(job, source, folder / f"{len(set(texts))}.parquet", listeners=[]).rows_per_second


def gain(rows: int) -> float:
    """Prints the figures; how many times faster the rows with duplicates are."""
    unique: dict[str, None] = {}
    for ticket in generate_tickets(rows * 2, seed=20_261_123):
        unique.setdefault(ticket.text)
    texts = list(unique)[:rows]
    repeated = texts[: rows // COPIES] * COPIES
    random.Random(1).shuffle(repeated)
    with tempfile.TemporaryDirectory() as name:
        differing = rows_per_second(texts, Path(name))
        alike = rows_per_second(repeated, Path(name))
    print(
        f"{rows} rows that differ: {differing:.0f} rows/s; {rows // COPIES} of them {COPIES} times each: {alike:.0f} "
        f"rows/s = {alike / differing:.1f} times (target {TARGET:g})"
    )
    return alike / differing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    gain(parser.parse_args().rows)


if __name__ == "__main__":
    main()
