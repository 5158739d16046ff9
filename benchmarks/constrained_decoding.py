"""What holding answers to a schema costs: the ticket tagger with and without one, on the same tickets."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama import GenerateJob, run_partition
from airflow_mullama.demo.tickets import CATEGORIES, PROMPT_TEMPLATE, SENTIMENTS, URGENCIES, generate_tickets

SEED = 20_261_124
SCHEMA = {
    "type": "object",
    "properties": {
        "category": {"enum": list(CATEGORIES)},
        "sentiment": {"enum": list(SENTIMENTS)},
        "urgency": {"enum": list(URGENCIES)},
    },
    "required": ["category", "sentiment", "urgency"],
}


def rows_per_second(source: Path, target: Path, output_schema: dict[str, Any] | None) -> float:
    """Of a whole run, the engine's start left out."""
    job = GenerateJob(
        model="demo:ticket-tagger",
        prompt_template=PROMPT_TEMPLATE,
        max_tokens=48,
        output_schema=output_schema,
        engine_options={"n_threads": 1},
    )
    manifest = run_partition(job, source, target, listeners=[])
    broken = manifest.error_types.get("invalid_json", 0)
    print(f"{'constrained' if output_schema else 'free'}: {manifest.rows_per_second:.0f} rows/s, {broken} invalid_json")
    return manifest.rows_per_second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "in.parquet")
        pq.write_table(pa.table({"text": [ticket.text for ticket in generate_tickets(rows, seed=SEED)]}), source)
        free = rows_per_second(source, Path(name, "free.parquet"), None)
        constrained = rows_per_second(source, Path(name, "constrained.parquet"), SCHEMA)
    print(f"constrained decoding runs at {constrained / free:.2f} of free decoding's rows/s")


if __name__ == "__main__":
    main()
