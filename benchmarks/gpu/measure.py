"""Figures of a GPU, each a ratio in one run: called by ``run.sh``, which prepares what a bare machine lacks.

Each figure is written to the results file as soon as it is there, so that a time limit loses nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from behaviour import lease, memory, no_room, not_a_number
from bench import Bench, Figure, Parts
from speed import ceiling, constrained, defaults, duplicates, embedding, generation, prefix

FIGURES: Mapping[str, Callable[[Bench], Parts]] = {
    figure.__name__: figure
    for figure in (
        generation,
        ceiling,
        defaults,
        memory,
        lease,
        no_room,
        not_a_number,
        prefix,
        duplicates,
        constrained,
        embedding,
    )
}


def device() -> str:
    """The GPU's name and memory as the driver tells them, or that there is none."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no GPU"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(FIGURES), help="this figure (repeatable)")
    parser.add_argument("--dry-run", action="store_true", help="tiny models on a CPU: does the script work?")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for results.json")
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="where models are made and kept")
    parser.add_argument("--minilm", type=Path, metavar="DIR", help="has minilm-f16.gguf and all-MiniLM-L6-v2/")
    parser.add_argument("--seconds", type=float, default=460.0, help="begin no figure after so many")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = arguments.output / "results.json"
    bench = Bench(arguments.models, dry_run=arguments.dry_run, minilm=arguments.minilm)
    about = {"device": device(), "dry_run": arguments.dry_run}
    figures: list[Figure] = []
    failed = 0
    started = time.monotonic()
    for name in arguments.only or FIGURES:
        for part in FIGURES[name](bench):
            if time.monotonic() - started > arguments.seconds:
                print(f"{name}: no time is left", flush=True)
                break
            figure = measured(name, part)
            failed += figure.ratio is None and figure.skipped is None
            figures.append(figure)
            print(figure, flush=True)
            text = json.dumps({**about, "figures": [vars(one) for one in figures]}, indent=1)
            results.write_text(text)
    print(f"\n{about['device']}\n" + "\n".join(map(str, figures)))
    return 1 if failed else 0


def measured(name: str, part: Callable[[], Figure]) -> Figure:
    """A figure; what fails does not keep the others from being measured."""
    before = time.monotonic()
    try:
        figure = part()
    except Exception as error:  # noqa: BLE001 - it is told in the table
        traceback.print_exc()
        figure = Figure(name, f"{type(error).__name__}: {error}", None)
    figure.took = round(time.monotonic() - before, 1)
    return figure


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.exit(main())
