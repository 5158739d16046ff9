"""Ratios that must not get worse, checked in minutes. Counts are held tightly; what other work on the machine can move
is held loosely, so that only a real change is reported."""

from __future__ import annotations

import sys

from duplicate_rows import gain
from generation_throughput import share_of_limit
from prefix_reuse import evaluated_over_least
from row_overhead import overhead
from row_weight_memory import peak_over_bound


def main() -> None:
    rows = overhead(50_000)
    one_prefix, many_prefixes = evaluated_over_least(200)
    checks = [
        ("evaluated prompt tokens over the least, one prefix", one_prefix <= 1.05),
        ("evaluated prompt tokens over the least, many prefixes", many_prefixes <= 4.0),
        ("duplicates over rows that differ", gain(400) >= 3.0),
        ("rows per CPU second over a bare server", share_of_limit(500, 16, "demo:ticket-tagger") >= 0.75),
        ("peak memory for rows of 10 MB over its bound", peak_over_bound(10_000_000, 200_000_000) <= 1.0),
        ("CPU of a task that embeds, without a model, over pyarrow's", rows["embed"].task_over_pyarrow <= 5),
        # Echo takes two microseconds for a vector: this is where a worker's own cost reaches its limit of ten.
        ("CPU of a worker that embeds over its engine's, echo", rows["embed"].worker_over_engine <= 6.0),
        ("CPU of a worker that generates over its engine's, echo", rows["generate"].worker_over_engine <= 4.0),
    ]
    worse = [name for name, good in checks if not good]
    if worse:
        sys.exit("Worse than it should be: " + "; ".join(worse) + ".")


if __name__ == "__main__":
    main()
