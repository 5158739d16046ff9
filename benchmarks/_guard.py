"""Ratios that must not get worse, checked in minutes. Counts are held tightly; what other work on the machine can move
is held loosely, so that only a real change is told."""

from __future__ import annotations

import sys

from duplicate_rows import gain
from generation_throughput import share_of_limit
from prefix_reuse import evaluated_over_least
from row_overhead import overhead


def main() -> None:
    one_prefix, many_prefixes = evaluated_over_least(600)
    checks = [
        ("evaluated prompt tokens over the least, one prefix", one_prefix <= 1.05),
        ("evaluated prompt tokens over the least, many prefixes", many_prefixes <= 4.0),
        ("duplicates over rows that differ", gain(1500) >= 3.0),
        ("rows per CPU second over a bare server", share_of_limit(800, 16, "demo:ticket-tagger") >= 0.75),
        ("CPU seconds of embedding without an engine over pyarrow's", overhead(50_000)["embed"] <= 3.0),
    ]
    worse = [name for name, good in checks if not good]
    if worse:
        sys.exit("Worse than it should be: " + "; ".join(worse) + ".")


if __name__ == "__main__":
    main()
