"""Runs a job over damaged copies of a Parquet file, in a process of its own: Arrow's C++ parses them.

Arguments: the sound file, a folder for the copies, the first seed, the one behind the last. It writes a line for each
thing that went wrong.
"""

from __future__ import annotations

import logging
import random
import resource
import sys
from pathlib import Path

import pyarrow.parquet as pq

from airflow_mullama.errors import MullamaError
from airflow_mullama.storage.filesystems import resolve_location
from airflow_mullama.storage.hive_columns import refuse_contradicted_keys
from airflow_mullama.storage.parquet.input import open_input
from tests.faults.damaged import damaged

MOST_MEMORY = 8 << 30


def read_all(path: Path) -> int:
    source = open_input([resolve_location(path)])
    refuse_contradicted_keys(source)
    return sum(batch.num_rows for batch in source.batches())


def main() -> None:
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    sound, folder = Path(sys.argv[1]), Path(sys.argv[2])
    first, end = int(sys.argv[3]), int(sys.argv[4])
    content, rows = sound.read_bytes(), pq.read_metadata(sound).num_rows
    assert read_all(sound) == rows
    path = folder / "ds=2026-01-01" / "damaged.parquet"
    path.parent.mkdir(exist_ok=True)
    for seed in range(first, end):
        (folder / "seed").write_text(str(seed))
        path.write_bytes(damaged(content, random.Random(seed)))
        try:
            read_all(path)
        except MullamaError:
            pass
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            sys.stdout.write(f"seed {seed}: {type(error).__name__}: {error}\n")


if __name__ == "__main__":
    main()
